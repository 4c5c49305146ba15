"""`/admin/v1/…`: what only the keys of `auth.admin_keys` may do. They open nothing else, and where
none is configured these routes don't exist: without keys everyone would be an administrator."""

from fastapi import APIRouter, Depends

from gateway.api.admin import adapters, audit, keys, teams
from gateway.api.admin.access import administrator

__all__ = ["router"]

router = APIRouter(tags=["admin"], prefix="/admin/v1", dependencies=[Depends(administrator)])
for room in (adapters, keys, teams, audit):
    router.include_router(room.router)
