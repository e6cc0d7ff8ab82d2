"""The GraphiQL page; scripts/explorer builds what it loads."""

from pathlib import Path

ASSETS = Path(__file__).parent / "static" / "explorer"

# Everything comes from the server itself. Two relaxations are for the editor (Monaco): it makes style elements, and
# draws lines as HTML with style attributes; the underlines of its errors are data: images.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; font-src 'self'; "
    "img-src 'self' data:; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>TaskQL</title>
<link rel="icon" href="data:,">
{head}
</head>
<body>
{body}
</body>
</html>
"""

# Addresses are relative, so that the page works behind any prefix of a proxy.
_BUILT_HEAD = """\
<link rel="stylesheet" href="explorer/explorer.css?v={version}">
<script type="module" src="explorer/explorer.js?v={version}"></script>
<style>body {{ margin: 0 }} #explorer {{ height: 100vh }} #explorer > p {{ margin: 0; padding: 2em }}</style>"""

_BUILT_BODY = """\
<div id="explorer"><p>Loading the TaskQL explorer…</p></div>
<noscript>The explorer needs JavaScript. The API itself does not: send GraphQL to this address by POST.</noscript>"""

_MISSING_BODY = """\
<h1>TaskQL</h1>
<p>The API answers at this address, but its explorer was not built. Run <code>scripts/explorer</code>, then reload.</p>
<p>Without it, send GraphQL from a shell:</p>
<pre>curl ADDRESS-OF-THIS-PAGE \\
  -H 'Authorization: Bearer TOKEN' \\
  -H 'Content-Type: application/json' \\
  -d '{"query": "{ viewer { email } }"}'</pre>"""


def page() -> str:
    """Return the HTML of the explorer. It holds no token: its script takes one from the fragment of its address."""
    if not (ASSETS / "explorer.js").is_file():
        return _PAGE.format(head="", body=_MISSING_BODY)
    return _PAGE.format(head=_BUILT_HEAD.format(version=_version()), body=_BUILT_BODY)


def _version() -> str:
    """What scripts/explorer built from; in asset addresses, so that browsers may keep assets for good."""
    return (ASSETS / "version").read_text().strip()
