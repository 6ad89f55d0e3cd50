"""One settings file for every place it runs; what differs comes from the environment (see .env.example)."""

from __future__ import annotations

import os
from pathlib import Path

import environ
from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy
from django.utils.translation import gettext_lazy as _

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()

# Idle threads of a torch process spin for a while; with an engine and a training on one machine each takes the cores
# from the other (on two cores a training step went from 0.27 s to 2.2 s beside another). A short spin halves that and
# costs a training alone a tenth. Read when the libraries are loaded, hence here.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")
# The lexical prior's algebra is small. Threads that helped with it would go on waiting for more of it, at full speed,
# while the engine wants the cores: a forward then took four times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
environ.Env.read_env(BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=False)
SECRET_KEY = env.str("SECRET_KEY")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# Where the business keeps what must last beside the database: snapshots, adapters, exam reports.
ARTIFACTS_DIR = Path(env.str("ARTIFACTS_DIR", default=str(BASE_DIR / "var" / "artifacts")))

# A local folder, or a hub id with the revision that pins it. Empty: the base model in training/lm/base.
BASE_MODEL = env.str("BASE_MODEL", default="")
if not BASE_MODEL or Path(BASE_MODEL).is_dir():
    # Nothing is to be looked up elsewhere. Read when the libraries are imported, hence here.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
BASE_MODEL_REVISION = env.str("BASE_MODEL_REVISION", default="")

# Hyperparameters by TRL's and PEFT's names that replace those of every preset, as JSON: {"learning_rate": 2e-4}.
TRAINING_PARAMETERS = env.json("TRAINING_PARAMETERS", default={})

# approved: customers read published answers, word for word, or that the assistant does not know. free: its own words.
ANSWER_POLICY = env.str("ANSWER_POLICY", default="approved")
if ANSWER_POLICY not in ("approved", "free"):
    raise ImproperlyConfigured(f"ANSWER_POLICY must be approved or free, not {ANSWER_POLICY}")
# Limits of free text by transformers' names, as JSON: {"max_new_tokens": 256, "repetition_penalty": 1.1}.
GENERATION_PARAMETERS = env.json("GENERATION_PARAMETERS", default={})

# What becomes of e-mail addresses, telephones, bank and identity numbers in wordings: mask learns a word in their
# place, block refuses to train before staff have taken them out.
PERSONAL_DATA = env.str("PERSONAL_DATA", default="mask")
if PERSONAL_DATA not in ("mask", "block"):
    raise ImproperlyConfigured(f"PERSONAL_DATA must be mask or block, not {PERSONAL_DATA}")

# What the business is called, above the chat and the admin; empty: Customer service.
SITE_NAME = env.str("SITE_NAME", default="")

# Who is told by e-mail that a customer waits for a person, and through which server. Nobody without addresses.
HANDOVER_EMAILS = env.list("HANDOVER_EMAILS", default=[])
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="") or "chat@localhost"
vars().update(env.email_url_config(env.str("EMAIL_URL", default="") or "consolemail://"))
EMAIL_TIMEOUT = 5

# How a customer reaches a person, in a line that the chat says to who asks: telephone, hours, e-mail address.
PERSON_CONTACT = env.str("PERSON_CONTACT", default="")

# Before a version goes live it is asked so many questions of its exam; 0 for none.
SMOKE_TEST_QUESTIONS = env.int("SMOKE_TEST_QUESTIONS", default=5)

# How the exam and the chat hold the base's weights: nf4, dequantized or full (training/lm/config.py). Empty: nf4 on a
# GPU, dequantized on a CPU.
SERVING_PRECISION = env.str("SERVING_PRECISION", default="")
if SERVING_PRECISION not in ("", "nf4", "dequantized", "full"):
    raise ImproperlyConfigured(f"SERVING_PRECISION must be nf4, dequantized or full, not {SERVING_PRECISION}")

MAX_RETENTION_DAYS = 3_650


def _days(name: str, given: str) -> int:
    """
    Raises:
        ImproperlyConfigured: it is no number of days for which anything may be kept.
    """
    if not given.isdecimal() or not 1 <= int(given) <= MAX_RETENTION_DAYS:
        raise ImproperlyConfigured(f"{name} must be a whole number of days from 1 to {MAX_RETENTION_DAYS}, not {given}")
    return int(given)


# How many days each kind of what customers leave is kept (chat/retention.py).
RETENTION_DAYS = {
    "conversations": _days("RETENTION_CONVERSATIONS_DAYS", env.str("RETENTION_CONVERSATIONS_DAYS", default="90")),
}
# Whom customers ask about their data: an address, a telephone or where to go.
PRIVACY_CONTACT = env.str("PRIVACY_CONTACT", default="")

# Without REDIS_URL, `make run` starts a server of its own on REDIS_PORT.
IS_REDIS_GIVEN = bool(env.str("REDIS_URL", default=""))
REDIS_PORT = env.int("REDIS_PORT", default=6390)
REDIS_URL = env.str("REDIS_URL", default="") or f"redis://127.0.0.1:{REDIS_PORT}/0"

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.simple_history",
    "unfold.contrib.import_export",
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "simple_history",
    "import_export",
    "faq",
    "training",
    "chat",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "chatbot_site.csp.ContentSecurityPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "chatbot_site.nul.NulMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "simple_history.middleware.HistoryRequestMiddleware",
]

ROOT_URLCONF = "chatbot_site.urls"
ASGI_APPLICATION = "chatbot_site.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

(BASE_DIR / "var").mkdir(exist_ok=True)
DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'var' / 'db.sqlite3'}")}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    # Three processes share the file: writers queue for the lock at BEGIN instead of failing in mid-transaction.
    DATABASES["default"]["OPTIONS"] = {
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
    # A file, since threads and other processes take part in the tests.
    DATABASES["default"]["TEST"] = {"NAME": str(BASE_DIR / "var" / f"test-{os.getpid()}.sqlite3")}
# Sockets ask often: to connect each time cost them more than what they asked. asgi.py closes what requests opened.
DATABASES["default"].setdefault("CONN_MAX_AGE", 600)
DATABASES["default"]["CONN_HEALTH_CHECKS"] = DATABASES["default"]["ENGINE"] != "django.db.backends.sqlite3"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

CHANNEL_LAYERS = {
    "default": {"BACKEND": "chatbot_site.layers.BridgedChannelLayer", "CONFIG": {"url": REDIS_URL}},
}

CELERY_BROKER_URL = REDIS_URL
# A training keeps its worker for as long as it takes; what is due at a time is the other one's.
CELERY_TASK_DEFAULT_QUEUE = "upkeep"
CELERY_TASK_ROUTES = {"training.tasks.run_training": {"queue": "training"}}
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# A fresh process per run hands all memory back, the device's too.
CELERY_WORKER_MAX_TASKS_PER_CHILD = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULE_FILENAME = str(BASE_DIR / "var" / "celerybeat-schedule")
CELERY_BEAT_SCHEDULE = {
    "sweep-training-runs": {"task": "training.tasks.sweep_runs", "schedule": 20.0, "options": {"expires": 15}},
    "follow-schedule": {"task": "training.tasks.follow_schedule", "schedule": 30.0, "options": {"expires": 25}},
    "train-if-due": {"task": "training.tasks.train_if_due", "schedule": 120.0, "options": {"expires": 100}},
    "watch-trial": {"task": "chat.tasks.watch_trial", "schedule": 60.0, "options": {"expires": 50}},
    "forget-expired": {"task": "chat.tasks.forget_expired", "schedule": 3600.0, "options": {"expires": 3500}},
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "es"
LANGUAGES = [("es", _("Spanish")), ("en", _("English"))]
# The second holds what libraries leave in English; makemessages writes to the first.
LOCALE_PATHS = [BASE_DIR / "chatbot_site" / "locale", BASE_DIR / "chatbot_site" / "locale_libraries"]
TIME_ZONE = env.str("TIME_ZONE", default="Europe/Madrid")
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True

SECURE_HTTPS = env.bool("SECURE_HTTPS", default=False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if SECURE_HTTPS else 0
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if SECURE_HTTPS else None
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}
# django-unfold runs Alpine, which evaluates expressions, and styles elements in place.
ADMIN_CSP_UPDATE = {"script-src": [SELF, UNSAFE_EVAL, UNSAFE_INLINE], "style-src": [SELF, UNSAFE_INLINE]}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        "celery": {"level": "WARNING"},
        # Tells of an optional package at every start.
        "bitsandbytes.backends.cpu.ops": {"level": "ERROR"},
        "httpx": {"level": "WARNING"},
        "django.channels.server": {"level": "WARNING"},
    },
}

SIMPLE_HISTORY_REVERT_DISABLED = False


def _door(title: object, icon: str, app: str, model: str, sees: str = "", without: str = "") -> dict[str, object]:
    """A list in the admin's menu, for those who may see it, or see `sees`.

    It stands for the pages under its address, but for those under that of the page `without`, which has its own entry.
    """
    link = reverse_lazy(f"admin:{app}_{model}_changelist")
    return {
        "title": title,
        "icon": icon,
        "link": link,
        "active": lambda request: (
            request.path.startswith(str(link))
            and not (without and request.path.startswith(str(reverse_lazy(f"admin:{without}"))))
        ),
        "permission": lambda request: request.user.has_perm(f"{app}.view_{sees or model}"),
    }


UNFOLD = {
    "SITE_TITLE": SITE_NAME or _("Customer service"),
    "SITE_HEADER": SITE_NAME or _("Customer service"),
    "SITE_SYMBOL": "forum",
    "SITE_URL": "/",
    "SHOW_HISTORY": True,
    "SHOW_LANGUAGES": False,
    "DASHBOARD_CALLBACK": "chat.admin.dashboard",
    "COLORS": {
        "primary": {
            "50": "#eefaf5",
            "100": "#d5f2e6",
            "200": "#aee4cf",
            "300": "#79cfb2",
            "400": "#45b391",
            "500": "#239876",
            "600": "#0f7a5e",
            "700": "#0f5c4c",
            "800": "#0f4a3e",
            "900": "#0e3d34",
            "950": "#06231e",
        },
    },
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("chat/icon.svg")},
    ],
    "STYLES": [lambda request: static("training/admin.css"), lambda request: static("chat/records.css")],
    "SIDEBAR": {
        "navigation": [
            {
                "title": _("What the assistant knows"),
                "items": [
                    _door(_("Questions and answers"), "quiz", "faq", "faqentry"),
                    _door(_("Off-topic questions"), "block", "faq", "offtopicquestion"),
                ],
            },
            {
                "title": _("Training"),
                "items": [
                    {"title": _("Overview"), "icon": "monitoring", "link": reverse_lazy("admin:index")},
                    _door(_("Training runs"), "model_training", "training", "trainingrun"),
                    _door(_("Versions"), "history", "training", "adapterversion", without="training_playground"),
                    {
                        "title": _("Try it out"),
                        "icon": "science",
                        "link": reverse_lazy("admin:training_playground"),
                        # As training/playground.py has it.
                        "permission": lambda request: any(
                            map(request.user.has_perm, ("training.view_adapterversion", "faq.add_paraphrase"))
                        ),
                    },
                    _door(_("Live periods"), "event_note", "training", "activation"),
                    _door(_("Planned"), "event_upcoming", "training", "scheduledactivation", sees="activation"),
                    _door(_("Timetable"), "update", "training", "retrainingschedule", sees="trainingrun"),
                    _door(_("Trials with customers"), "science", "training", "trial", sees="activation"),
                ],
            },
            {
                "title": _("Conversations"),
                "items": [
                    {
                        "title": _("Inbox"),
                        "icon": "support_agent",
                        "link": reverse_lazy("admin:chat_inbox"),
                        "badge": "chat.admin.inbox_badge",
                        "permission": lambda request: request.user.has_perm("chat.answer_conversation"),
                    },
                    _door(_("Conversations"), "chat", "chat", "conversation"),
                    _door(_("Figures"), "bar_chart", "chat", "dailyfigures", sees="conversation"),
                    _door(_("Hand-overs"), "record_voice_over", "chat", "handover", without="chat_inbox"),
                    _door(_("Opening hours"), "schedule", "chat", "openinghours"),
                    _door(_("Closed days"), "event_busy", "chat", "closedday"),
                    _door(_("Websites"), "web", "chat", "site"),
                ],
            },
            {
                "title": _("People"),
                "items": [
                    _door(_("Staff"), "person", "auth", "user"),
                    _door(_("Groups"), "group", "auth", "group"),
                ],
            },
        ],
    },
}
