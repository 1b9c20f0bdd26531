"""``python -m bids_fmmtc``."""

from bids_fmmtc.cli import main

raise SystemExit(main())
