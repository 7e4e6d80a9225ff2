"""Self-contained pages: Jinja2 templates and SVG plots, for the daemon's reports and for training's."""
