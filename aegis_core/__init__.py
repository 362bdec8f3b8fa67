"""Aegis: fraud detection in payment transactions, without labels to start.

The package imports nothing here, so that a dashboard's kernel pays only for what it uses.
The way of a transaction is `intake` → `store` → `profiles` → `detector` → `policy`, of which
`scoring` joins the last three.
"""

__version__ = "0.1.0"
