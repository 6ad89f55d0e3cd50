"""Measurements. What the application's settings tell the libraries before they are loaded holds here too."""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
