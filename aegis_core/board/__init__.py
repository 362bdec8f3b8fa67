"""Front end of the dashboard and the launcher that serves it; `aegis_core.dashboard` is its kernel.

`*.js` are the widgets' views, `board.css` is the only stylesheet, `template/` is the Voilà page.
"""
