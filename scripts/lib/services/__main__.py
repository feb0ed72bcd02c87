import sys
from pathlib import Path

if sys.version_info < (3, 9):
    sys.exit(f"services: Python 3.9 or newer is needed; this is {sys.version.split()[0]}")
sys.path[0] = str(Path(__file__).resolve().parents[1])

from services.cli import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
