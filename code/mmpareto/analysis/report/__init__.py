"""What runs give, as a table with its statistics: Markdown, CSV, LaTeX and a page of HTML."""
