"""Pages that need nothing else: Jinja2 templates and SVG plots, for the daemon's reports and for training's."""
