"""`python -m aegis_core.cli`, the same as `aegis`."""

import sys

from aegis_core.cli import main

sys.exit(main())
