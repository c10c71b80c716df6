"""
Events as text, for people: renderers say what, sinks say where.

    from asm_core.rendering import CompactRenderer, FileSink, TTYSink, arender_stream

    async with StreamSession(manager, {"prompt": "Hello"}) as stream:
        await arender_stream(stream, renderer=CompactRenderer(), sinks=[TTYSink(), FileSink("run.log")])
"""

from __future__ import annotations

from asm_core.rendering.attempts import without_superseded as without_superseded
from asm_core.rendering.compact import CompactRenderer as CompactRenderer
from asm_core.rendering.lines import LinesRenderer as LinesRenderer
from asm_core.rendering.passthrough import PassthroughRenderer as PassthroughRenderer
from asm_core.rendering.pubsub import PubSubSink as PubSubSink
from asm_core.rendering.render import RENDERERS as RENDERERS
from asm_core.rendering.render import RenderReport as RenderReport
from asm_core.rendering.render import SinkError as SinkError
from asm_core.rendering.render import arender_stream as arender_stream
from asm_core.rendering.render import render_stream as render_stream
from asm_core.rendering.sinks import CallbackSink as CallbackSink
from asm_core.rendering.sinks import FileSink as FileSink
from asm_core.rendering.sinks import JSONLSink as JSONLSink
from asm_core.rendering.sinks import TTYSink as TTYSink
from asm_core.rendering.studio.renderer import StudioRenderer as StudioRenderer
from asm_core.rendering.verbose import VerboseRenderer as VerboseRenderer
