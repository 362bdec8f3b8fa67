"""Views: what people look at; pictures for notebooks and reports, dashboard, analysts' page.

In comes what the store holds, out come figures and pages. Nobody changes anything here but the
analysts' page, which hands answers to `review`.
"""
