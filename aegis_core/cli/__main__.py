"""`python -m aegis_core.cli`, the same as `aegis`."""

import sys

from aegis_core.cli.commands import main

sys.exit(main())
