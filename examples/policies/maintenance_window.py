"""From `begins` to `ends`, methods that change something are refused, and clients learn when to come again."""

from datetime import datetime

from pydantic import AwareDatetime, BaseModel

from grpcgw.policies import Allow, CallView, Code, Deny, OwnPolicy, allow, deny


class Window(BaseModel):
    begins: AwareDatetime
    ends: AwareDatetime
    reading: tuple[str, ...] = ("Get", "List", "Watch")
    """How the names of methods begin that change nothing."""


class MaintenanceWindow(OwnPolicy[Window]):
    def check(self, call: CallView) -> Allow | Deny:
        window, now = self.config, datetime.fromtimestamp(call.received_at_s).astimezone()
        if call.method.startswith(window.reading) or not window.begins <= now < window.ends:
            return allow()
        left_s = min((window.ends - now).total_seconds(), 3600)
        return deny(Code.UNAVAILABLE, f"maintenance until {window.ends}", retry_after_ms=round(left_s * 1000))
