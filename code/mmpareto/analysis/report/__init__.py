"""Reports of tables: results, statistics and claims, as Markdown, CSV, LaTeX and HTML."""
