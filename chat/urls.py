from __future__ import annotations

from django.urls import path
from django.views.i18n import set_language

from chat import plain, polling, privacy, rights, views

urlpatterns = [
    path("", views.page, name="chat"),
    path("plain/", plain.plain_chat, name="plain_chat"),
    path("widget.js", views.widget, name="widget"),
    path("chat/config.json", views.config, name="chat_config"),
    path("chat/frames/", polling.frames, name="chat_frames"),
    path("chat/messages/", polling.messages, name="chat_messages"),
    path("health/", views.health, name="health"),
    path("conversation/<str:pk>/", rights.delete, name="delete_conversation"),
    path("conversation/<str:pk>/export.json", rights.export_json, name="export_json"),
    path("conversation/<str:pk>/export.txt", rights.export_text, name="export_text"),
    path("privacy/", privacy.page, name="privacy"),
    path("language/", set_language, name="set_language"),
]
