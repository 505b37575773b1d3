"""The table of an entity channel as a client keeps it: it insists on every rule of VIEW_ENTER, EVENT and VIEW_LEAVE."""


class Table:
    """One channel's. `synced`: a snapshot is complete, and nothing is missing."""

    def __init__(self):
        self.entities = {}
        self.synced = False
        self.snapshots = 0

    def take(self, message):
        kind = message.type
        if kind == "VIEW_ENTER":
            self._enter(message)
        elif kind == "VIEW_LEAVE":
            assert message["keys"], f"nobody leaves: {message}"
            assert message["reason"] in ("view", "removed"), message
            for key in message["keys"]:
                assert key in self.entities, f"{key} leaves a view that it is not in: {message}"
                del self.entities[key]
        elif kind == "EVENT":
            assert message["key"] in self.entities, f"an event of {message['key']}, which is not in view: {message}"
            self.entities[message["key"]] = message["data"]

    def _enter(self, message):
        assert isinstance(message["complete"], bool) and isinstance(message["entities"], list), message
        if message.get("reset"):
            self.entities, self.synced = {}, False
            self.snapshots += 1
        else:
            assert message["entities"] or message["complete"], message
        for entity in message["entities"]:
            assert isinstance(entity["key"], str) and isinstance(entity["event"], str) and "data" in entity, entity
            assert entity["key"] not in self.entities, f"{entity['key']} enters, and is in view: {message}"
            self.entities[entity["key"]] = entity["data"]
        self.synced = self.synced or message["complete"]
