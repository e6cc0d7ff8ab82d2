"""The GraphiQL page. scripts/explorer builds its assets."""

from pathlib import Path

ASSETS = Path(__file__).parent / "static" / "explorer"
# In a clone. Packages contain the built explorer, and no scripts.
BUILD_SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "explorer"

# All content comes from this server. The two exceptions are for the editor (Monaco): it creates style elements and
# attributes, and its error underlines are data: images.
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

# URLs are relative, so that the page works under any path prefix of a proxy.
_BUILT_HEAD = """\
<link rel="stylesheet" href="explorer/explorer.css?v={version}">
<script type="module" src="explorer/explorer.js?v={version}"></script>
<style>body {{ margin: 0 }} #explorer {{ height: 100vh }} #explorer > p {{ margin: 0; padding: 2em }}</style>"""

_BUILT_BODY = """\
<div id="explorer"><p>Loading the TaskQL explorer…</p></div>
<noscript>The explorer needs JavaScript. You can use the API without it: send GraphQL to this URL by POST.</noscript>"""

_MISSING_BODY = """\
<h1>TaskQL</h1>
<p>The API is available at this URL, but its explorer is not. {advice}</p>
<p>You can also send GraphQL from a shell:</p>
<pre>curl URL-OF-THIS-PAGE \\
  -H 'Authorization: Bearer TOKEN' \\
  -H 'Content-Type: application/json' \\
  -d '{{"query": "{{ viewer {{ email }} }}"}}'</pre>"""
_BUILD = "Run <code>scripts/explorer</code>, then reload."
_INSTALL = "This TaskQL was installed without it; install a published package, which includes it."


def page() -> str:
    """The HTML of the explorer. It contains no token: its script reads one from the fragment of the URL."""
    if not (ASSETS / "explorer.js").is_file():
        body = _MISSING_BODY.format(advice=_BUILD if BUILD_SCRIPT.exists() else _INSTALL)
        return _PAGE.format(head="", body=body)
    return _PAGE.format(head=_BUILT_HEAD.format(version=_version()), body=_BUILT_BODY)


def _version() -> str:
    """The version that scripts/explorer wrote. It is part of asset URLs, so that browsers may cache permanently."""
    return (ASSETS / "version").read_text().strip()
