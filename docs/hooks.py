"""What mkdocs does with links that lead out of docs/, to files of the repository that the site does not contain."""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"\[([^\]]+)\]\((\.\.?/[^)#\s]*)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Keep the text of each link to a file outside docs/ and drop the link.

    A link to a file that does not exist stays, so that mkdocs warns about it.
    """
    docs = Path(config.docs_dir).resolve()
    folder = Path(page.file.abs_src_path).resolve().parent

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        outside = docs.parent in target.parents and docs not in target.parents
        return link[1] if outside and target.exists() else link[0]

    return LINK.sub(replaced, markdown)
