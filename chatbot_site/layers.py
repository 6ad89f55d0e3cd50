"""The channel layer over Redis, for more sockets than Redis is to have connections."""

from __future__ import annotations

from channels_redis.core import RedisChannelLayer
from redis.asyncio import BlockingConnectionPool

MAX_CONNECTIONS = 50


class PooledRedisChannelLayer(RedisChannelLayer):
    """Waits for a connection where the library's own pool would refuse: when a server comes back all come at once."""

    def create_pool(self, index: int) -> BlockingConnectionPool:
        options = dict(self.hosts[index])
        address = options.pop("address")
        return BlockingConnectionPool.from_url(address, max_connections=MAX_CONNECTIONS, **options)
