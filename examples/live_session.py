"""From what a provider can do to what its answer cost: manifest, negotiation, session, streaming, usage."""

from __future__ import annotations

from _common import MEMORY, claim, main, model_api, refusal

from asm_core import CapabilityResolver, CapabilityType, Event, Manifest, ProviderAdapter, Registry, open_manager
from asm_core.domain.pricing import default_model

ASKED = "What is a fencing token? One sentence."
TOLD = "A number that grows with each holder of a lock, so that a late writer is told from the present one."


def what_it_can_do(adapter: ProviderAdapter) -> None:
    """Manifests by name: what a program knows of its providers, here what the adapter says of itself."""
    listed = Manifest.new(name="writer", version="1.0.0", provider=adapter.name, capabilities=adapter.capabilities())
    registry = Registry().register(listed)
    claim("a manifest is found by its name", registry.get("writer").provider == "anthropic")
    claim("and by what it can do", registry.filter_by_capability(CapabilityType.SAMPLING) == (listed,))

    wanted = CapabilityResolver.new(required=["sampling"], optional=["tool", "file_access"])
    result = wanted.negotiate(listed.capabilities)
    print(f"  {result.status}: has {sorted(map(str, result.supported))}; {', '.join(result.warnings)}")
    claim("it has what is required", CapabilityType.SAMPLING in result.supported)
    claim("what is optional and missing is told", result.unsupported == {CapabilityType.FILE_ACCESS})


def show(event: Event) -> None:
    if event.type == "message_streamed":
        print(event.data["delta"], end="", flush=True)


async def example() -> None:
    with model_api("anthropic", ("say", TOLD)) as adapter:
        what_it_can_do(adapter)
        async with open_manager(MEMORY, adapter) as manager:
            session = await manager.open_session("writer", context={"system_prompt": "Be brief."})
            needs_files = manager.start_run(session.id, {"prompt": ASKED}, required_capabilities=["file_access"])
            claim("who requires more is refused", (await refusal(needs_files)).code == "missing_required_capability")

            run = await manager.start_run(session.id, {"prompt": ASKED}, optional_capabilities=["file_access"])
            claim("who can do without is warned", len(run.metadata["capability_warnings"]) == 1)
            result = await manager.execute_run(run.id, event_callback=show)
            print()
            await manager.complete_session(session.id)
        await adapter.aclose()

    streamed = "".join(event.data["delta"] for event in result.events if event.type == "message_streamed")
    claim("what was streamed is the answer", streamed == result.output["content"] != "")
    [started] = [event for event in result.events if event.type == "run_started"]
    claim("a run that names no model has the provider's", started.data["model"] == default_model("anthropic"))
    print(f"  {dict(result.token_usage)}, {result.cost_usd} USD")
    claim("the usage is known, and what it cost", result.token_usage["output_tokens"] > 0 and bool(result.cost_usd))


if __name__ == "__main__":
    main(example)
