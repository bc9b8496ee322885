"""Pictures of the gallery: runs the blocks of docs/gallery.md, keeps what they draw.

python tools/gallery.py
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "images" / "gallery"
#: Bytes of all pictures together: they are in the repository, and renewed with every release.
LIMIT = 600_000


def draw(folder: Path) -> list[Path]:
    """Run each block of the page on its own in a folder and return the pictures it leaves there."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.docs_blocks import Runner, blocks

    with contextlib.chdir(folder):
        for block in blocks(PAGE):
            if block.kind == "python":
                Runner().run(block)
    return sorted(folder.glob("*.png"))


def main() -> None:
    """Renew the pictures of the gallery."""
    os.environ["MPLBACKEND"] = "Agg"
    with tempfile.TemporaryDirectory() as name:
        drawn = draw(Path(name))
        total = sum(picture.stat().st_size for picture in drawn)
        if total > LIMIT:
            raise SystemExit(f"the pictures have {total} bytes, more than {LIMIT}")
        PICTURES.mkdir(parents=True, exist_ok=True)
        for picture in drawn:
            shutil.copyfile(picture, PICTURES / picture.name)
    sys.stdout.write(f"{PICTURES}: {len(drawn)} pictures, {total} bytes\n")


if __name__ == "__main__":
    main()
