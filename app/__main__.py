"""`python -m app` is `taskql`."""

from app.cli import main

main()
