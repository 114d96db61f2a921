"""Many assets from one list: ``dreamlift batch`` and ``dreamlift status``. coordinator.py is the loop."""
