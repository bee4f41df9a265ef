"""``python -m memcg``."""

import sys

from .cli import main

sys.exit(main())
