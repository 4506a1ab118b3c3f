"""The ``aquatint`` command. Other components bring their commands by entry points."""
