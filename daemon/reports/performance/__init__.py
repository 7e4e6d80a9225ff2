"""What a desk, or several, earned over a span: figures, their sources in the journal, text and page."""
