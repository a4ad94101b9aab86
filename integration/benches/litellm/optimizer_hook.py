"""LiteLLM's hooks doing what the module does: the optimizer is asked about each call
and each answer, and whatever goes wrong, the call goes on as it was.

Written against LiteLLM's public interface for hooks (`CustomLogger`).
"""

import os

import aiohttp
import httpx
import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.llms.custom_httpx.http_handler import get_async_httpx_client, httpxSpecialProvider
from litellm.types.utils import ModelResponse

OPTIMIZER = os.environ["BENCH_OPTIMIZER"]
TIMEOUT_SECONDS = 0.8
ENDPOINT = "/v1/chat/completions"
# What a chat request may hold; LiteLLM keeps its own state beside it.
MEMBERS = (
    "model messages stream stream_options temperature top_p n stop max_tokens max_completion_tokens "
    "presence_penalty frequency_penalty logit_bias logprobs top_logprobs user seed tools tool_choice "
    "parallel_tool_calls response_format modalities audio prediction reasoning_effort verbosity "
    "web_search_options service_tier store prompt_cache_key safety_identifier functions function_call"
).split()


def _metadata(user):
    known = {"user_id": user.user_id, "team_id": user.team_id}
    return {name: value for name, value in known.items() if value is not None}


class RequestHook(CustomLogger):
    """`/v1/optimize` before each call, over LiteLLM's own client, as its own guardrails ask their services."""

    def __init__(self):
        super().__init__()
        self.client = get_async_httpx_client(llm_provider=httpxSpecialProvider.GuardrailCallback)
        # Requests as they went to the provider, by LiteLLM's id of the call: what the hook
        # after the call gets is full of LiteLLM's own state.
        self.sent = {}
        self.keeps_sent = False

    async def ask(self, path, body):
        """The optimizer's answer, or None."""
        try:
            # Raises for statuses that are errors, too.
            answer = await self.client.post(OPTIMIZER + path, json=body, timeout=TIMEOUT_SECONDS)
            found = answer.json() if answer.status_code == 200 else None
        except (httpx.HTTPError, litellm.Timeout, ValueError):
            return None
        return found if isinstance(found, dict) else None

    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        if call_type not in ("completion", "acompletion"):
            return data
        request = {name: data[name] for name in MEMBERS if name in data}
        transformed = await self.transformed(request, user_api_key_dict)
        if transformed is not None:
            for name in request:
                if name not in transformed:
                    data.pop(name, None)
            data.update(transformed)
        if self.keeps_sent:
            self.sent[data["litellm_call_id"]] = transformed or request
        return data

    async def transformed(self, request, user):
        answer = await self.ask("/v1/optimize", {
            "endpoint": ENDPOINT,
            "request": request,
            "metadata": _metadata(user),
            "capabilities": {"canShortCircuit": False},
        })
        found = answer and answer.get("request")
        if not isinstance(found, dict) or not isinstance(found.get("messages"), list):
            return None
        return found if found["messages"] else None


class BothHooks(RequestHook):
    """And `/v1/optimize-response` after it."""

    # LiteLLM calls what stands in the class itself only.
    async_pre_call_hook = RequestHook.async_pre_call_hook

    def __init__(self):
        super().__init__()
        self.keeps_sent = True

    async def async_post_call_failure_hook(self, request_data, *_, **__):
        self.sent.pop(request_data.get("litellm_call_id"), None)

    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        request = self.sent.pop(data.get("litellm_call_id"), None)
        if request is None or not isinstance(response, ModelResponse):
            return response
        answer = await self.ask("/v1/optimize-response", {
            "endpoint": ENDPOINT,
            "request": request,
            "response": response.model_dump(),
            "metadata": _metadata(user_api_key_dict),
        })
        changed = answer and answer.get("response")
        if not isinstance(changed, dict) or not answer.get("decisions"):
            return response
        return ModelResponse(**changed)


class RequestHookByHand(RequestHook):
    """The same over nothing but aiohttp: the fastest that we could write."""

    async_pre_call_hook = RequestHook.async_pre_call_hook

    def __init__(self):
        super().__init__()
        self.session = None

    async def ask(self, path, body):
        if self.session is None:
            # Connections stay open.
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            self.session = aiohttp.ClientSession(timeout=timeout)
        try:
            async with self.session.post(OPTIMIZER + path, json=body) as answer:
                found = await answer.json() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
        return found if isinstance(found, dict) else None


request_hook = RequestHook()
request_hook_by_hand = RequestHookByHand()
both_hooks = BothHooks()
