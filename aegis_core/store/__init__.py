"""The store: one DuckDB file, its one owner, and what is kept beside it.

In come rows and statements, out come frames, Arrow tables and arrays. `connect` gives a `Store`,
which holds the file for a statement or a block, or attaches to the service that owns it.
"""

from aegis_core.store.database import Store, connect

__all__ = ["Store", "connect"]
