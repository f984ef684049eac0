"""The Lua that Envoy runs where it has no configuration for a thing; values reach it as escaped literals or as data.

`CHOOSE` picks the cluster of a request that may leave, by what is in flight; `NEEDS` marks requests that ask for what
a hosted API lacks; `REWRITE` makes a request fit to leave: none of these runs for a model without a hosted API.
`USAGE` finds the usage in answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """Where requests of one model go; a bound of -1 is none."""

    on_prem: str
    usual: str
    overflow: str
    limit: int
    gate: str
    gate_limit: int


def literal(text: str) -> str:
    """Return a Lua string literal of any text: every byte but letters and digits as a decimal escape."""
    escaped = (chr(byte) if chr(byte).isascii() and chr(byte).isalnum() else f"\\{byte:03d}" for byte in text.encode())
    return f'"{"".join(escaped)}"'


def choose(choices: dict[str, Choice], closed: Iterable[str] = ()) -> str:
    """Return the cluster specifier for these model names; requests of `closed` clients stay on-prem."""
    rows = (
        f"[{literal(name)}]={{{literal(c.on_prem)},{literal(c.usual)},{literal(c.overflow)},{c.limit:d},"
        f"{literal(c.gate)},{c.gate_limit:d}}}"
        for name, c in sorted(choices.items())
    )
    shut = (f"[{literal(client)}]=true" for client in sorted(closed))
    return f"local MODELS = {{{','.join(rows)}}}\nlocal CLOSED = {{{','.join(shut)}}}\n{CHOOSE}"


CHOOSE = """
local function full(handle, name, limit)
  if limit < 0 then return false end
  local cluster = handle:getCluster(name)
  -- A burst is pending before it is counted as requests.
  return cluster ~= nil and cluster:numRequests() + cluster:numPendingRequests() >= limit
end

function envoy_on_route(handle)
  local headers = handle:headers()
  local model = MODELS[headers:get("x-ax-model") or ""]
  if model == nil then return "nobody" end
  if headers:get("x-ax-needs") ~= nil or CLOSED[headers:get("x-ax-client") or ""] then return model[1] end
  if full(handle, model[5], model[6]) then return model[1] end
  if full(handle, model[1], model[4]) then return model[3] end
  return model[2]
end
"""

USAGE = r"""
local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local WANTED = { completion = '"completion_tokens"', prompt = '"prompt_tokens"' }
local LONGEST_COUNT = 64

local function last_count(bytes, key)
  local found, at = nil, 1
  while true do
    local _, stop = find(bytes, key, at, true)
    if stop == nil then return found end
    found = tonumber(match(bytes, "^%s*:%s*(%d+)", stop + 1)) or found
    at = stop + 1
  end
end

function envoy_on_response(handle)
  local kind = handle:headers():get("content-type") or ""
  local streamed = find(kind, "event-stream", 1, true)
  if not streamed and not find(kind, "json", 1, true) then return end
  local rest = ""
  for chunk in handle:bodyChunks() do
    local bytes = chunk:getBytes(0, chunk:length())
    if rest ~= "" then bytes = rest .. bytes end
    -- Inside of a JSON string every quote is escaped, so content cannot look like a count.
    if find(bytes, '_tokens"', 1, true) then
      local told = handle:streamInfo():dynamicMetadata()
      for name, key in pairs(WANTED) do
        local count = last_count(bytes, key)
        if count ~= nil and count < 1e9 then
          told:set("ax", name, count)
          if streamed and name == "completion" then told:set("ax", "streamed", count) end
        end
      end
    end
    -- The network may cut an answer, and a count in it, anywhere; a line of events that has ended holds no half of one.
    rest = streamed and byte(bytes, -1) == 10 and "" or sub(bytes, -LONGEST_COUNT)
  end
end
"""

NEEDS = r"""
local PATTERNS = {
  tools = { '"tools"%s*:', '"functions"%s*:', '"tool_calls"%s*:' },
  vision = { '"image_url"', '"input_image"' },
  json_schema = { '"response_format"%s*:', '"guided_json"%s*:' },
  logprobs = { '"logprobs"%s*:', '"top_logprobs"%s*:' },
  choices = { '"n"%s*:%s*[2-9]', '"n"%s*:%s*1[0-9]', '"best_of"%s*:' },
}
-- A key may be spelled with escapes; such a request stays where everything is understood.
local ESCAPED_KEY = '"[%w_]*\\u00[2-7]%x[%w_\\]*"%s*:'

local function largest(body, key)
  local most = 0
  for number in string.gmatch(body, '"' .. key .. '"%s*:%s*(%d+)') do
    most = math.max(most, tonumber(number))
  end
  return most
end

local function lacking(body, context)
  for name in pairs(context:get("lacks") or {}) do
    for _, pattern in ipairs(PATTERNS[name]) do
      if string.find(body, pattern) then return name end
    end
  end
  if string.find(body, ESCAPED_KEY) then return "escaped" end
  local room = context:get("context")
  -- No tokenizer makes more tokens than the text has bytes.
  if room ~= nil and #body + math.max(largest(body, "max_tokens"), largest(body, "max_completion_tokens")) > room then
    return "context"
  end
end

function envoy_on_request(handle)
  local body = handle:body()
  if body == nil then return end
  local need = lacking(body:getBytes(0, body:length()), handle:filterContext())
  if need ~= nil then
    handle:headers():replace("x-ax-needs", need)
  end
end
"""

REWRITE = r"""
local KEPT = { ["accept"] = true, ["content-type"] = true, ["content-length"] = true, ["transfer-encoding"] = true }

-- Return the position after the string that begins at `at`.
local function after_string(body, at)
  local position = at + 1
  while true do
    local found = string.find(body, '["\\]', position)
    if found == nil then return nil end
    if string.byte(body, found) == 34 then return found + 1 end
    position = found + 2
  end
end

-- Return the position after the value that begins at `at`.
local function after_value(body, at)
  local first = string.byte(body, at)
  if first == 34 then return after_string(body, at) end
  if first ~= 123 and first ~= 91 then return string.find(body, "[,}%]%s]", at) end
  local depth, position = 0, at
  while true do
    local found = string.find(body, '["{}%[%]]', position)
    if found == nil then return nil end
    local byte = string.byte(body, found)
    if byte == 34 then
      position = after_string(body, found)
      if position == nil then return nil end
    else
      depth = depth + ((byte == 123 or byte == 91) and 1 or -1)
      position = found + 1
      if depth == 0 then return position end
    end
  end
end

-- Return the top-level members as {key, text}; nil for what is no object.
local function members(body)
  local found, position = {}, string.match(body, "^%s*{%s*()")
  if position == nil then return nil end
  while string.byte(body, position) ~= 125 do
    local start = position
    if string.byte(body, start) ~= 34 then return nil end
    local key_end = after_string(body, start)
    local value = key_end and string.match(body, "^%s*:%s*()", key_end)
    local finish = value and after_value(body, value)
    if finish == nil then return nil end
    found[#found + 1] = { string.sub(body, start + 1, key_end - 2), string.sub(body, start, finish - 1),
                          string.sub(body, value, finish - 1) }
    position = string.match(body, "^%s*,%s*()", finish) or string.match(body, "^%s*()", finish)
  end
  return found
end

local function rewritten(body, context)
  local found = members(body)
  if found == nil then return nil end
  local drop, texts, stream = context:get("drop") or {}, {}, false
  for _, member in ipairs(found) do
    local key, text, value = member[1], member[2], member[3]
    if key == "stream" then stream = value == "true" end
    local ours = key == "model" or key == "stream_options" or drop[key]
    if not ours and not string.find(key, "\\", 1, true) then texts[#texts + 1] = text end
  end
  texts[#texts + 1] = '"model":' .. context:get("model")
  -- Without usage in the stream nobody could account for it.
  if stream and not drop["stream_options"] then
    texts[#texts + 1] = '"stream_options":{"include_usage":true}'
  end
  return "{" .. table.concat(texts, ",") .. "}"
end

function envoy_on_request(handle)
  local data = handle:streamInfo():dynamicMetadata()
  data:set("ax", "model", handle:headers():get("x-ax-model") or "")
  data:set("ax", "client", string.match(handle:headers():get("x-ax-client") or "", ":(.*)") or "")
  local gone = {}
  for name in pairs(handle:headers()) do
    if string.sub(name, 1, 1) ~= ":" and not KEPT[name] then gone[#gone + 1] = name end
  end
  for _, name in ipairs(gone) do handle:headers():remove(name) end
  local body = handle:body()
  local text = body and rewritten(body:getBytes(0, body:length()), handle:filterContext())
  if text == nil then
    handle:respond({ [":status"] = "400" }, "The body is not a JSON object.")
    return
  end
  handle:headers():replace("content-length", tostring(body:setBytes(text)))
  handle:streamInfo():dynamicMetadata():set("ax", "bytes", #text)
end

-- A blank line ends an event; inside of one there is no raw line feed.
local function pieces(bytes, streamed)
  return streamed and select(2, string.gsub(bytes, "\n\r?\n", "")) or #bytes / 6
end

-- Count what is generated until its usage is seen: an answer that breaks off before that is accounted by this.
local function count(handle)
  local events, tail = 0, ""
  local streamed = string.find(handle:headers():get("content-type") or "", "event-stream", 1, true)
  for chunk in handle:bodyChunks() do
    local bytes = tail .. chunk:getBytes(0, chunk:length())
    local data = handle:streamInfo():dynamicMetadata()
    if string.find(bytes, '"completion_tokens"%s*:%s*%d') then
      data:set("ax", "open", 0)
      return
    end
    events = events + pieces(bytes, streamed) - pieces(tail, streamed)
    data:set("ax", "events", math.ceil(events))
    tail = string.sub(bytes, -64)
  end
end

function envoy_on_response(handle)
  local status = handle:headers():get(":status")
  -- A rate limit is told to the client; everything else may be tried on-prem.
  if status == "429" then
    handle:headers():replace("x-envoy-ratelimited", "true")
  end
  if status == "200" then
    local data = handle:streamInfo():dynamicMetadata()
    data:set("ax", "events", 0)
    data:set("ax", "open", 1)
    count(handle)
  end
end
"""
