"""What MkDocs does not do by itself for our site; `mkdocs.yml` names this file as a hook.

- README and the pages that lie beside what they are about (`OUTSIDE`) are pages of the site, too.
- A link to a file of the repository that is no page, such as a source file, leads to a page that shows it; so a strict
  build checks every link, and the site needs nothing from elsewhere.
- A notebook (`docs/*.ipynb`) becomes a page with its code and the outputs that are stored in it.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "datasets/README.md": "datasets.md",
    "benchmarks/README.md": "benchmarks.md",
    "ovseg/assets/mini/README.md": "mini_card.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the repository that lie elsewhere than in docs/, and what the site calls them."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "bash", ".toml": "toml"}
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"(?<=\])\((?![a-z]+:|#)([^\s)#]+)(#[^\s)]*)?\)")
IMAGE = re.compile(r'(?<=src=")(?![a-z]+:)([^"]+)(?=")')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, what is linked from any page, and notebooks."""
    docs = Path(config.docs_dir)
    for origin, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / origin).read_text(encoding="utf-8")))
    for notebook in docs.glob("*.ipynb"):
        files.append(File.generated(config, f"{notebook.stem}.md", content=as_markdown(notebook)))
    for file in [one for one in files if one.is_documentation_page()]:
        for target in map(str, linked(file.content_string, origin_of(file.src_uri))):
            uri, path = uri_of(target), ROOT / target
            if files.get_file_from_path(uri) is None and path.is_file():
                shown = {"content": shown_file(path)} if uri.endswith(".md") else {"abs_src_path": str(path)}
                files.append(File.generated(config, uri, **shown))
            elif path.is_dir():
                raise PluginError(f"{file.src_uri} links to the folder {target}; link to a file of it")
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the repository into those of the site, outside of code, and bars of code in tables into bars."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    origin, here = origin_of(uri), posixpath.dirname(uri)

    def there(link: str) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
        return posixpath.relpath(uri_of(target), here or ".")

    def change(text: str) -> str:
        text = LINK.sub(lambda found: f"({there(found[1])}{found[2] or ''})", text)
        return IMAGE.sub(lambda found: there(found[1]), text)

    # GitHub wants bars of code in tables escaped, Python's Markdown shows the sign.
    markdown = re.sub(r"^\|.*$", lambda row: CODE.sub(lambda c: c[0].replace("\\|", "|"), row[0]), markdown, flags=re.M)
    parts = re.split(r"(^\s*```.*?^\s*```$|`[^`\n]+`(?!\]))", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if index % 2 else change(part) for index, part in enumerate(parts))


def origin_of(uri: str) -> str:
    """Return where a page of the site lies in the repository."""
    return next((origin for origin, name in OUTSIDE.items() if name == uri), f"docs/{uri}")


def uri_of(target: str) -> str:
    """Return what the site calls a file of the repository."""
    if target in OUTSIDE:
        return OUTSIDE[target]
    if target.startswith("docs/"):
        name = target.removeprefix("docs/")
        return f"{name.removesuffix('.ipynb')}.md" if name.endswith(".ipynb") else name
    return f"source/{target}.md" if Path(target).suffix.lower() not in (".png", ".jpg", ".svg") else f"source/{target}"


def linked(markdown: str, origin: str) -> set[str]:
    """Return the files of the repository that a page links to, by their paths below its root."""
    text = re.sub(r"^\s*```.*?^\s*```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    names = [found[1] for found in LINK.finditer(text)] + IMAGE.findall(text)
    return {posixpath.normpath(posixpath.join(posixpath.dirname(origin), name)) for name in names}


def shown_file(path: Path) -> str:
    """Return a page that shows a text file; it does not take part in the search."""
    name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    fence = "`" * (max([2, *map(len, re.findall(r"^\s*(`+)", text, re.MULTILINE))]) + 1)
    language = LANGUAGES.get(path.suffix, "text")
    return f"---\nsearch:\n  exclude: true\n---\n# {name}\n\n{fence}{language}\n{text.rstrip()}\n{fence}\n"


def as_markdown(notebook: Path) -> str:
    """Return a notebook as a page: text, code, and the outputs that it holds."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(output) for output in cell.get("outputs", [])]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f'<img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">'
    if "text/html" in data:
        return "".join(data["text/html"])
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```"
