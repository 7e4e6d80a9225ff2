"""Performance of one desk or several over a span: figures, their sources in the journal, text and page."""
