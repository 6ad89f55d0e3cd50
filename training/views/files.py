"""A version leaves as one file, and comes in as one."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from typing import BinaryIO, cast

from django.conf import settings
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from training import bundle_format, bundles, runs, versions
from training.models import AdapterVersion
from training.views.page import page_context, require


@require_POST
def export_version(request: HttpRequest, version_pk: int) -> HttpResponse | StreamingHttpResponse:
    """A version as one file, for another instance. Who took it is written down: it holds the business's wordings."""
    require(request, "training.export_adapterversion")
    version = get_object_or_404(AdapterVersion.objects.select_related("run", "snapshot"), pk=version_pk)
    # Without a name, so that it is gone with its last reader.
    file = cast(BinaryIO, tempfile.TemporaryFile(dir=settings.ARTIFACTS_DIR))  # noqa: SIM115 - the response closes it
    try:
        bundles.export_version(version, file)
    except versions.VersionError as error:
        file.close()
        messages.error(request, str(error))
        return redirect("admin:training_adapterversion_change", version.pk)
    assert request.user.pk is not None, "a permission was asked for"
    LogEntry.objects.log_actions(request.user.pk, [version], CHANGE, change_message=_("Downloaded"), single_object=True)
    headers = {
        "Content-Disposition": f'attachment; filename="{version.name}.zip"',
        "Content-Length": str(file.tell()),
    }
    file.seek(0)
    return StreamingHttpResponse(_in_chunks(file), content_type="application/zip", headers=headers)


async def _in_chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    """Not from the event loop; and Django would read a file's plain iterator to its end before it sends anything."""
    with file:
        while chunk := await asyncio.to_thread(file.read, bundle_format.CHUNK_BYTES):
            yield chunk


@require_http_methods(["GET", "HEAD", "POST"])
def import_version(request: HttpRequest) -> HttpResponse:
    """Ask for a version's file; on POST look at it, and have a worker take its exam."""
    require(request, "training.import_adapterversion")
    if request.method == "POST":
        upload = request.FILES.get("bundle")
        try:
            if upload is None:
                raise bundle_format.BundleError(_("Choose a file."))
            run = bundles.queue_import(cast(BinaryIO, upload.file), imported_by=request.user)  # type: ignore[arg-type]
        except (bundle_format.BundleError, runs.QueueFull) as error:
            messages.error(request, str(error))
            return redirect("admin:training_import_version")
        return redirect("admin:training_trainingrun_change", run.pk)
    context = {
        "title": _("Bring in a version"),
        "max_mb": bundle_format.MAX_BUNDLE_BYTES // bundle_format.MEGABYTE,
        "base_model": runs.configured_base().label,
        "is_full": runs.is_full(),
        "back_url": reverse("admin:training_adapterversion_changelist"),
    }
    return render(request, "admin/training/import.html", {**page_context(request), **context})
