"""Output of results as HTML, charts, terminal tables, Markdown and CSV."""
