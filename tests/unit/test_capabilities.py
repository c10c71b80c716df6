"""What providers can do, what is asked of them, and what agents bring along."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from asm_core.domain.capability import Capability, CapabilityType, valid_capability_type
from asm_core.domain.errors import AsmError, ErrorCode
from asm_core.domain.manifest import Manifest
from asm_core.domain.negotiation import (
    CapabilityResolver,
    NegotiationResult,
    NegotiationStatus,
    capabilities_of_type,
    has_capability_type,
)
from asm_core.domain.registry import Registry, validate_manifest

CHAT = Capability(name="chat", type=CapabilityType.TOOL)
STREAMING = Capability(name="streaming", type=CapabilityType.SAMPLING)
INTERRUPT = Capability(name="interrupt", type=CapabilityType.SAMPLING)
WEB = Capability(name="web", type=CapabilityType.NETWORK_ACCESS, enabled=False)


def refused(call: Callable[[], object]) -> AsmError:
    with pytest.raises(AsmError) as caught:
        call()
    return caught.value


# Capability


def test_a_new_capability_is_enabled_and_bare() -> None:
    """spec/01 check 86; None for config or permissions means empty."""
    capability = Capability.new(name="chat", type="tool", config=None, permissions=None)
    assert capability == CHAT
    assert (capability.enabled, capability.config, capability.permissions, capability.description) == (
        True, {}, (), None,
    )  # fmt: skip


def test_there_are_seven_types_of_capability() -> None:
    """spec/01 check 87."""
    assert [str(kind) for kind in CapabilityType] == [
        "tool", "resource", "prompt", "sampling", "file_access", "network_access", "code_execution",
    ]  # fmt: skip
    assert all(valid_capability_type(kind) and valid_capability_type(str(kind)) for kind in CapabilityType)
    assert not any(valid_capability_type(kind) for kind in ("magic", "", "TOOL", None, 5, ["tool"]))


def test_what_is_given_to_a_capability_is_kept() -> None:
    """spec/01 check 88."""
    fields: dict[str, Any] = {
        "description": "d", "config": {"k": 1}, "permissions": ["read", "write"], "enabled": False,
    }  # fmt: skip
    capability = Capability.new(name="fs", type=CapabilityType.FILE_ACCESS, **fields)
    assert {name: getattr(capability, name) for name in fields} == fields | {"permissions": ("read", "write")}


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"name": None}, ErrorCode.VALIDATION_ERROR, "name"),
        ({"name": ""}, ErrorCode.VALIDATION_ERROR, "name"),
        ({"name": None, "type": "magic"}, ErrorCode.VALIDATION_ERROR, "name"),
        ({"type": None}, ErrorCode.VALIDATION_ERROR, "type"),
        ({"type": "magic"}, ErrorCode.INVALID_CAPABILITY_TYPE, "'magic'"),
        ({"type": 5}, ErrorCode.INVALID_CAPABILITY_TYPE, "5"),
        ({"enabled": "false"}, ErrorCode.VALIDATION_ERROR, "enabled"),
        ({"permissions": "read"}, ErrorCode.VALIDATION_ERROR, "permissions"),
        ({"config": "k=1"}, ErrorCode.VALIDATION_ERROR, "config"),
    ],
)
def test_malformed_capabilities_are_refused_by_field(change: dict[str, Any], code: ErrorCode, named: str) -> None:
    """spec/01 check 89; the name is looked at first."""
    error = refused(lambda: Capability.from_map(CHAT.to_map() | change))
    assert error.code is code
    assert named in error.message


def test_enabling_and_disabling_gives_copies() -> None:
    """spec/01 check 90."""
    assert not CHAT.disable().enabled
    assert CHAT.enabled
    assert CHAT.disable().enable() == CHAT


def test_a_capability_as_a_map_comes_back() -> None:
    """spec/01 check 91; six keys, `enabled` is true where it is not written."""
    written = json.loads(json.dumps(WEB.to_map()))
    assert sorted(written) == ["config", "description", "enabled", "name", "permissions", "type"]
    assert Capability.from_map(written) == WEB
    assert Capability.from_map({"name": "chat", "type": "tool"}) == CHAT
    for nothing in ({}, None, []):
        assert refused(lambda nothing=nothing: Capability.from_map(nothing)).code is ErrorCode.VALIDATION_ERROR


# Negotiation


def test_requirements_may_be_text_and_may_be_none() -> None:
    """spec/01 check 92."""
    asked = CapabilityResolver.new(required=["tool", CapabilityType.TOOL], optional=("sampling",))
    assert asked.required == {CapabilityType.TOOL}
    assert asked.optional == {CapabilityType.SAMPLING}
    assert CapabilityResolver.new() == CapabilityResolver.new(required=[], optional=[]) == CapabilityResolver()


@pytest.mark.parametrize("asked", [{"required": ["magic"]}, {"optional": ["tool", "magic"]}, {"required": [None]}])
def test_unknown_requirements_are_refused(asked: dict[str, Any]) -> None:
    """spec/01 check 93."""
    assert refused(lambda: CapabilityResolver.new(**asked)).code is ErrorCode.INVALID_CAPABILITY_TYPE


def test_a_provider_that_can_do_all_is_full() -> None:
    """spec/01 checks 94, 97, 100: duplicates of a type count once."""
    asked = CapabilityResolver.new(required=["tool"], optional=["sampling"])
    result = asked.negotiate([CHAT, STREAMING, INTERRUPT])
    assert result == NegotiationResult(
        status=NegotiationStatus.FULL, supported=frozenset({CapabilityType.TOOL, CapabilityType.SAMPLING})
    )
    assert CapabilityResolver.new(required=["tool"]).negotiate([CHAT]).warnings == ()


@pytest.mark.parametrize(
    ("required", "capabilities", "missing"),
    [
        (["tool"], [STREAMING], ["tool"]),
        (["tool", "sampling", "prompt"], [STREAMING], ["prompt", "tool"]),
        (["tool"], [], ["tool"]),
        (["network_access"], [CHAT, WEB], ["network_access"]),
    ],
)
def test_every_missing_requirement_is_named(required: list[str], capabilities: Any, missing: list[str]) -> None:
    """spec/01 checks 95, 98, 100: sorted; disabled capabilities do not count."""
    error = refused(lambda: CapabilityResolver.new(required=required).negotiate(capabilities))
    assert error.code is ErrorCode.MISSING_REQUIRED_CAPABILITY
    assert error.message.endswith(": " + ", ".join(missing))
    assert error.details == {"missing": missing}


def test_a_missing_option_degrades_and_warns() -> None:
    """spec/01 check 96."""
    asked = CapabilityResolver.new(required=["tool"], optional=["resource", "sampling", "prompt"])
    result = asked.negotiate([CHAT, STREAMING])
    assert result.status is NegotiationStatus.DEGRADED
    assert result.supported == {CapabilityType.TOOL, CapabilityType.SAMPLING}
    assert result.unsupported == {CapabilityType.PROMPT, CapabilityType.RESOURCE}
    assert [warning.rpartition(" ")[2] for warning in result.warnings] == ["prompt", "resource"]


def test_asking_for_nothing_is_full_and_empty() -> None:
    """spec/01 checks 99, 101: nothing negotiated yet is unknown."""
    assert CapabilityResolver().negotiate([CHAT]) == NegotiationResult(status=NegotiationStatus.FULL)
    nothing = NegotiationResult()
    assert (nothing.status, nothing.supported, nothing.unsupported, nothing.warnings) == (
        NegotiationStatus.UNKNOWN, frozenset(), frozenset(), (),
    )  # fmt: skip


def test_capabilities_by_type_are_the_enabled_ones() -> None:
    """spec/01 check 102."""
    offered = [CHAT, STREAMING, INTERRUPT, WEB]
    assert capabilities_of_type(offered, CapabilityType.SAMPLING) == [STREAMING, INTERRUPT]
    assert capabilities_of_type(offered, CapabilityType.NETWORK_ACCESS) == []
    assert has_capability_type(offered, CapabilityType.TOOL)
    assert not has_capability_type(offered, CapabilityType.NETWORK_ACCESS)
    assert not has_capability_type([], CapabilityType.TOOL)


# Manifest


def a_manifest(name: str = "coder", **fields: Any) -> Manifest:
    return Manifest.new(**{"name": name, "version": "1.0.0"} | fields)


def test_a_new_manifest_keeps_what_it_is_given() -> None:
    """spec/01 check 103: capabilities as objects or mappings; what is no list counts as empty."""
    assert a_manifest() == Manifest(name="coder", version="1.0.0")
    fields: dict[str, Any] = {"description": "d", "provider": "claude", "config": {"a": 1}, "metadata": {"b": 2}}
    manifest = a_manifest(**fields, capabilities=[CHAT, {"name": "streaming", "type": "sampling"}])
    assert {name: getattr(manifest, name) for name in fields} == fields
    assert manifest.capabilities == (CHAT, STREAMING)
    assert a_manifest(capabilities="chat").capabilities == ()


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"version": None}, "version"),
        ({"version": ""}, "version"),
        ({"capabilities": [CHAT, {"type": "tool"}]}, "capability name"),
        ({"capabilities": ["chat"]}, "capability"),
        ({"config": [1]}, "config"),
        ({"metadata": "x"}, "metadata"),
    ],
)
def test_malformed_manifests_are_refused_by_field(fields: dict[str, Any], named: str) -> None:
    """spec/01 check 104."""
    error = refused(lambda: a_manifest(**fields))
    assert error.code is ErrorCode.VALIDATION_ERROR
    assert named in error.message


def test_capabilities_are_added_at_the_end_once() -> None:
    """spec/01 check 105: the receiver stays as it was."""
    empty = a_manifest()
    manifest = empty.add_capability(CHAT).add_capability({"name": "streaming", "type": "sampling"})
    assert manifest.capabilities == (CHAT, STREAMING)
    assert empty.capabilities == ()
    error = refused(lambda: manifest.add_capability(CHAT.disable()))
    assert error.code is ErrorCode.DUPLICATE_CAPABILITY
    assert "chat" in error.message
    assert refused(lambda: manifest.add_capability({"name": "x"})).code is ErrorCode.VALIDATION_ERROR


def test_capabilities_are_found_and_removed_by_name() -> None:
    """spec/01 check 106."""
    manifest = a_manifest(capabilities=[CHAT, STREAMING])
    assert manifest.get_capability("streaming") is STREAMING
    assert manifest.remove_capability("chat").capabilities == (STREAMING,)
    assert refused(lambda: manifest.get_capability("magic")).code is ErrorCode.CAPABILITY_NOT_FOUND
    assert refused(lambda: manifest.remove_capability("magic")).code is ErrorCode.CAPABILITY_NOT_FOUND


def test_disabled_capabilities_are_left_out_of_the_enabled() -> None:
    """spec/01 check 107."""
    assert a_manifest(capabilities=[WEB, CHAT]).enabled_capabilities == (CHAT,)


def test_a_manifest_as_a_map_comes_back() -> None:
    """spec/01 check 108: seven keys."""
    manifest = a_manifest(capabilities=[CHAT, WEB], provider="claude", metadata={"a": {"b": 1}})
    written = json.loads(json.dumps(manifest.to_map()))
    assert sorted(written) == ["capabilities", "config", "description", "metadata", "name", "provider", "version"]
    assert Manifest.from_map(written) == manifest
    for nothing in ({}, None, [], "x"):
        assert refused(lambda nothing=nothing: Manifest.from_map(nothing)).code is ErrorCode.VALIDATION_ERROR


# Registry


def test_a_new_registry_is_empty() -> None:
    """spec/01 checks 109, 112."""
    registry = Registry(metadata={"owner": "me"})
    assert (registry.list(), registry.count(), registry.metadata) == ((), 0, {"owner": "me"})
    assert not registry.exists("coder")


def test_a_name_is_registered_once() -> None:
    """spec/01 check 110."""
    registry = Registry().register(a_manifest())
    assert registry.get("coder") == a_manifest()
    error = refused(lambda: registry.register(a_manifest(version="2")))
    assert error.code is ErrorCode.ALREADY_EXISTS
    assert "coder" in error.message


@pytest.mark.parametrize("verb", ["unregister", "get"])
def test_unknown_names_are_not_found(verb: str) -> None:
    """spec/01 check 111."""
    error = refused(lambda: getattr(Registry(), verb)("coder"))
    assert error.code is ErrorCode.NOT_FOUND
    assert "coder" in error.message
    assert refused(lambda: Registry().update(a_manifest())).code is ErrorCode.NOT_FOUND


def test_the_list_is_in_order_of_names() -> None:
    """spec/01 check 112: whatever the order of registration."""
    names = ["c", "a", "b"]
    registry = Registry()
    for name in names:
        registry = registry.register(a_manifest(name))
    assert [manifest.name for manifest in registry.list()] == ["a", "b", "c"]
    assert registry.exists("b")
    assert registry.count() == 3


def test_an_update_takes_the_place_of_its_namesake() -> None:
    """spec/01 check 113."""
    registry = Registry().register(a_manifest()).update(a_manifest(version="2", description="new"))
    assert (registry.get("coder").version, registry.get("coder").description) == ("2", "new")
    assert registry.count() == 1


@pytest.mark.parametrize(
    ("manifest", "named"),
    [
        (Manifest(name="", version=""), "name"),
        (Manifest(name="a", version=""), "version"),
        (Manifest(name=cast(str, None), version="1"), "name"),
        (Manifest(name="a", version="1", capabilities=(Capability(name="", type=CapabilityType.TOOL),)), "capability"),
        (
            Manifest(name="a", version="1", capabilities=(Capability(name="x", type=cast(CapabilityType, "magic")),)),
            "capability",
        ),
    ],
)
def test_what_is_built_by_hand_is_checked_on_the_way_in(manifest: Manifest, named: str) -> None:
    """spec/01 checks 110, 114."""
    for call in (validate_manifest, Registry().register, Registry().update):
        error = refused(lambda call=call: call(manifest))
        assert error.code is ErrorCode.VALIDATION_ERROR
        assert named in error.message
    validate_manifest(a_manifest())


def test_manifests_by_provider_and_by_capability() -> None:
    """spec/01 check 115: in order of names; a disabled capability does not count."""
    registry = (
        Registry()
        .register(a_manifest("b", provider="claude", capabilities=[CHAT]))
        .register(a_manifest("a", provider="claude", capabilities=[WEB]))
        .register(a_manifest("c", provider="codex", capabilities=[CHAT, STREAMING]))
    )
    assert [one.name for one in registry.filter_by_provider("claude")] == ["a", "b"]
    assert [one.name for one in registry.filter_by_capability(CapabilityType.TOOL)] == ["b", "c"]
    assert registry.filter_by_provider("amp") == ()
    assert registry.filter_by_capability(CapabilityType.NETWORK_ACCESS) == ()


def test_a_registry_never_changes() -> None:
    """spec/01 check 116."""
    empty = Registry()
    one = empty.register(a_manifest())
    one.update(a_manifest(version="2"))
    one.unregister("coder")
    assert (empty.count(), one.count(), one.get("coder").version) == (0, 1, "1.0.0")
    ten = empty
    for number in range(10):
        ten = ten.register(a_manifest(f"m{number}"))
    assert ten.count() == 10


def test_a_registry_as_a_map_comes_back() -> None:
    """spec/01 check 117."""
    registry = Registry(metadata={"a": 1}).register(a_manifest("b")).register(a_manifest("a", capabilities=[CHAT]))
    written = json.loads(json.dumps(registry.to_map()))
    assert [one["name"] for one in written["manifests"]] == ["a", "b"]
    assert Registry.from_map(written) == registry
    for empty in (Registry().to_map(), {}, {"manifests": None, "metadata": None}, {"manifests": []}):
        assert Registry.from_map(empty) == Registry()


@pytest.mark.parametrize(
    "value", [None, [], "x", {"manifests": [{"name": "a"}]}, {"manifests": 5}, {"manifests": "ab"}, {"metadata": 5}]
)
def test_malformed_registries_are_refused(value: object) -> None:
    """spec/01 check 117: the first bad manifest's error."""
    assert refused(lambda: Registry.from_map(value)).code is ErrorCode.VALIDATION_ERROR
