"""The bundled tapes, and the tool that writes them. A tape is data: nothing here decides anything."""
