from __future__ import annotations

from django.urls import path
from django.views.i18n import set_language

from chat import views

urlpatterns = [
    path("", views.page, name="chat"),
    path("health/", views.health, name="health"),
    path("language/", set_language, name="set_language"),
]
