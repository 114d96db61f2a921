"""Set-up of all tests: process settings before torch is imported."""

from __future__ import annotations

from dreamlift.startup import tune_process

tune_process()
