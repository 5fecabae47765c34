"""Discovery: the store of objects, its sources (API server, YAML directory), and resolvers from service to pods."""
