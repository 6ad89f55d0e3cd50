"""What staff do in the training room. Every view is wrapped by the admin (admin.py) and asks for its permission."""

from training.views.files import export_version, import_version
from training.views.page import entry_links
from training.views.trainings import cancel_run, differences, prepare, retry_run, status, train_now
from training.views.trials import stop_trial, try_version
from training.views.trying import add_wording, playground
from training.views.versions import activate, compare_versions, roll_back, set_threshold, undo

__all__ = [
    "activate",
    "add_wording",
    "cancel_run",
    "compare_versions",
    "differences",
    "entry_links",
    "export_version",
    "import_version",
    "playground",
    "prepare",
    "retry_run",
    "roll_back",
    "set_threshold",
    "status",
    "stop_trial",
    "train_now",
    "try_version",
    "undo",
]
