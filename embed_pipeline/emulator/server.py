"""The emulator as a server: a thread of this process, or a process of its own."""

from __future__ import annotations

import argparse
import ipaddress
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from embed_pipeline.emulator.control.behaviour import Timing, read_switches
from embed_pipeline.emulator.control.faults import read_faults
from embed_pipeline.emulator.rules.rate_limits import PLANS
from embed_pipeline.emulator.settings import EmulatorSettings
from embed_pipeline.errors import ConfigurationError, EmbedPipelineError

if TYPE_CHECKING:
    import uvicorn

    from embed_pipeline.emulator.platform import Platform
    from embed_pipeline.emulator.state.clock import Clock
    from embed_pipeline.emulator.work.compute import Compute

_START_SEC = 30.0


class Emulator:
    """A running emulator, in a thread of this process.

    Example:
        with Emulator(EmulatorSettings(media_root=folder)) as emulator:
            client = EmbedClient(api_key="any", base_url=emulator.base_url)

    Args:
        settings: Its settings.
        compute: What embeds a file. None takes the engine that the settings name.
        clock: What time it is. None takes the machine's time.
    """

    def __init__(
        self,
        settings: EmulatorSettings | None = None,
        *,
        compute: Compute | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings or EmulatorSettings()
        self._compute = compute
        self._clock = clock
        self._platform: Platform | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        self._origin = ""

    @property
    def base_url(self) -> str:
        """The address of the platform's API, such as `http://127.0.0.1:41234/v1.3`."""
        if not self._origin:
            raise ConfigurationError("The emulator has no address before it is started; call start() first.")
        return f"{self._origin}/v1.3"

    @property
    def control_url(self) -> str:
        """The address of the control API, such as `http://127.0.0.1:41234/_emulator`."""
        return f"{self.base_url.removesuffix('/v1.3')}/_emulator"

    @property
    def platform(self) -> Platform:
        """The platform that is served: its store, clock and journal."""
        if self._platform is None:
            raise ConfigurationError("The emulator is not running; call start() first.")
        return self._platform

    def start(self) -> Emulator:
        """Start to listen and to work; returns once requests are answered.

        Raises:
            ConfigurationError: If the address is taken, or a folder cannot be used.
        """
        from embed_pipeline.emulator.platform import Platform

        listener = listen(self.settings.host, self.settings.port)
        try:
            self._platform = Platform(self.settings, compute=self._compute, clock=self._clock)
        except BaseException:
            listener.close()
            raise
        self._server = _server(self._platform)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="embed-emulator", daemon=True)
        self._platform.start()
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(_START_SEC / 0.005)):
            if self._server.started or not self._thread.is_alive():
                break
            waited.wait(0.005)
        if not self._server.started:
            self.stop()
            raise ConfigurationError("The emulator did not start; see the log for the reason.")
        self._origin = origin_of(listener)
        return self

    def stop(self) -> None:
        """Stop to listen and to work. Tasks that are not done are kept where the settings name a state folder."""
        if self._server is not None:
            self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=10)
        if self._platform is not None:
            self._platform.close()
        self._server = self._thread = self._platform = None

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def listen(host: str, port: int) -> socket.socket:
    """Take an address.

    Args:
        host: The address; anything but loopback is warned about.
        port: The port; 0 takes a free one.

    Raises:
        ConfigurationError: If it is taken or does not exist.
    """
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not loopback:
        warnings.warn(
            f"The emulator listens on {host}, where other machines may reach it; it is made for this machine alone.",
            stacklevel=2,
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"The emulator cannot listen on {host}: {error}.") from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"The emulator cannot listen on {host} port {port}: {error.strerror}. Stop what uses it, or choose another "
            "port (0 takes a free one)."
        ) from error
    return listener


def origin_of(listener: socket.socket) -> str:
    """Return `http://host:port` of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(platform: Platform) -> uvicorn.Server:
    import uvicorn

    from embed_pipeline.emulator.api.app import build_app

    # The access log would hold ids and queries; the journal has the requests.
    settings = platform.settings
    config = uvicorn.Config(
        build_app(platform, hosts={host.lower() for host in (settings.host, *settings.allowed_hosts)}),
        log_level="warning",
        access_log=False,
        lifespan="off",
        date_header=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=75,
    )
    return uvicorn.Server(config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run an emulator until it gets SIGTERM or SIGINT.

    Args:
        argv: The command line without the program's name. None takes that of the process.

    Returns:
        0 after SIGTERM or SIGINT, 2 if the command line or the address cannot be used.
    """
    arguments = _parser().parse_args(argv)
    try:
        return _serve(_settings(arguments))
    except EmbedPipelineError as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 2


def _serve(settings: EmulatorSettings) -> int:
    from embed_pipeline.emulator.platform import Platform

    ended = threading.Event()
    server: uvicorn.Server | None = None

    def end(*_: object) -> None:
        ended.set()
        if server is not None:
            server.should_exit = True

    # Signals may be ignored or blocked by the parent process, which is inherited. Uvicorn raises a
    # signal again once it has shut down in order; here it has done its work by then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        listener = listen(settings.host, settings.port)
    for warning in caught:
        print(warning.message, file=sys.stderr)  # noqa: T201
    platform = Platform(settings)
    server = _server(platform)
    announced = threading.Thread(target=_announce, args=(server, origin_of(listener)), daemon=True)
    try:
        if not ended.is_set():
            platform.start()
            announced.start()
            server.run([listener])
    finally:
        platform.close()
        if "embed_pipeline.emulator.engine" in sys.modules:
            sys.modules["embed_pipeline.emulator.engine"].close_workers()
    return 0


def _announce(server: uvicorn.Server, origin: str) -> None:
    pause = threading.Event()
    while not server.started:
        pause.wait(0.005)
    print(f"{origin}/v1.3", flush=True)  # noqa: T201


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embed-pipeline emulator",
        description="A local server that speaks the TwelveLabs Embed API v2 and computes real vectors.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one (default)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="further name it is reached by; may be repeated",
    )
    parser.add_argument("--state", type=Path, help="folder that keeps tasks and results (default: none are kept)")
    parser.add_argument("--media-root", type=Path, help="folder below which file:// sources may lie")
    parser.add_argument("--ready-after", type=float, default=0.0, metavar="SECONDS", help="least time in processing")
    parser.add_argument("--ready-after-polls", type=int, default=0, metavar="N", help="polls that see it processing")
    parser.add_argument(
        "--ready-per-media-second", type=float, default=0.0, metavar="SECONDS", help="processing time by media length"
    )
    parser.add_argument("--hold", action="store_true", help="keep tasks in processing until the control API says so")
    parser.add_argument("--faults", type=Path, metavar="FILE", help="JSON file of fault rules")
    parser.add_argument("--plan", default="none", choices=sorted(PLANS), help="rate limits (default: none)")
    parser.add_argument(
        "--switch",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="how to take an open question, such as error_shape=flat; may be repeated",
    )
    parser.add_argument(
        "--clock-skew", type=float, default=0.0, metavar="SECONDS", help="how far the platform's clock is ahead"
    )
    parser.add_argument("--api-key", help="the only key to accept (default: any that is not empty)")
    parser.add_argument(
        "--engine", default="signal", help="signal (default), models, instant, or package.module:attribute"
    )
    parser.add_argument(
        "--instant-duration", type=float, metavar="SECONDS", help="instant engine: read no media, take this length"
    )
    parser.add_argument("--workers", type=int, help="tasks computed at once (default: one per processor)")
    parser.add_argument("--allow-private-sources", action="store_true", help="let http sources lie in private networks")
    return parser


def _settings(arguments: argparse.Namespace) -> EmulatorSettings:
    faults: tuple[dict[str, object], ...] = ()
    seed = 0
    if arguments.faults is not None:
        faults, seed = read_faults(arguments.faults)
    return EmulatorSettings(
        host=arguments.host,
        port=arguments.port,
        allowed_hosts=tuple(arguments.allow_host),
        state=arguments.state,
        media_root=arguments.media_root,
        api_key=arguments.api_key,
        engine=arguments.engine,
        instant_duration_sec=arguments.instant_duration,
        workers=arguments.workers,
        allow_private_sources=arguments.allow_private_sources,
        plan=arguments.plan,
        clock_skew_sec=arguments.clock_skew,
        faults=faults,
        fault_seed=seed,
        switches=read_switches(arguments.switch),
        timing=Timing(
            after_sec=arguments.ready_after,
            after_polls=arguments.ready_after_polls,
            per_media_sec=arguments.ready_per_media_second,
            on_command=arguments.hold,
        ),
    )
