"""Results as HTML pages, charts, terminal tables, Markdown and CSV."""
