"""prl's pool behind the interfaces of other libraries."""
