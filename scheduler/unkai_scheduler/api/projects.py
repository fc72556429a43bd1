"""identity.v1.ProjectService."""

from __future__ import annotations

from typing import Any

from unkai.identity.v1 import project_pb2, project_service_pb2, project_service_pb2_grpc
from unkai_scheduler.agents.convert import timestamp
from unkai_scheduler.api.callers import call_of
from unkai_scheduler.domain.resources import Project
from unkai_scheduler.services.listing import Paging
from unkai_scheduler.services.projects import ProjectDraft, ProjectsService


class ProjectServicer(project_service_pb2_grpc.ProjectServiceServicer):
    """Projects over gRPC."""

    def __init__(self, projects: ProjectsService) -> None:
        self._projects = projects

    async def CreateProject(
        self, request: project_service_pb2.CreateProjectRequest, context: Any
    ) -> project_service_pb2.CreateProjectResponse:
        project = await self._projects.create(call_of(request), _draft(request.project))
        return project_service_pb2.CreateProjectResponse(project=project_message(project))

    async def GetProject(
        self, request: project_service_pb2.GetProjectRequest, context: Any
    ) -> project_service_pb2.GetProjectResponse:
        project = await self._projects.get(request.project_id)
        return project_service_pb2.GetProjectResponse(project=project_message(project))

    async def ListProjects(
        self, request: project_service_pb2.ListProjectsRequest, context: Any
    ) -> project_service_pb2.ListProjectsResponse:
        paging = Paging(request.page_size, request.page_token)
        page = await self._projects.list(paging, name=request.name)
        return project_service_pb2.ListProjectsResponse(
            projects=map(project_message, page.rows),
            next_page_token=page.next_token,
            revision=page.revision,
        )

    async def UpdateProject(
        self, request: project_service_pb2.UpdateProjectRequest, context: Any
    ) -> project_service_pb2.UpdateProjectResponse:
        project = await self._projects.update(
            call_of(request),
            request.project.id,
            _draft(request.project),
            request.update_mask.paths,
            request.project.etag,
        )
        return project_service_pb2.UpdateProjectResponse(project=project_message(project))

    async def DeleteProject(
        self, request: project_service_pb2.DeleteProjectRequest, context: Any
    ) -> project_service_pb2.DeleteProjectResponse:
        await self._projects.delete(call_of(request), request.project_id, request.etag)
        return project_service_pb2.DeleteProjectResponse()


def project_message(project: Project) -> project_pb2.Project:
    """Write a project."""
    return project_pb2.Project(
        id=project.id,
        name=project.name,
        description=project.description,
        labels=dict(project.labels),
        etag=project.etag,
        create_time=timestamp(project.create_time),
        update_time=timestamp(project.update_time),
    )


def _draft(message: project_pb2.Project) -> ProjectDraft:
    return ProjectDraft(message.name, message.description, dict(message.labels))
