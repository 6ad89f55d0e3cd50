from __future__ import annotations

from django.urls import path
from django.views.i18n import set_language

from chat import privacy, rights, views

urlpatterns = [
    path("", views.page, name="chat"),
    path("health/", views.health, name="health"),
    path("conversation/<str:pk>/", rights.delete, name="delete_conversation"),
    path("conversation/<str:pk>/export.json", rights.export_json, name="export_json"),
    path("conversation/<str:pk>/export.txt", rights.export_text, name="export_text"),
    path("privacy/", privacy.page, name="privacy"),
    path("language/", set_language, name="set_language"),
]
