-- Machnet for Wireshark and tshark (docs/spec/wire.md). Tested by `cargo xtask test --only dissector`.
--
--   wireshark -X lua_script:tools/machnet.lua capture.pcapng      or: copy it to ~/.local/lib/wireshark/plugins
--
-- UDP ports are not ours to know, so a conversation is recognised by what its packets look like: strictly, and from then on
-- everything in it is dissected, broken packets too. Where that is not enough: "Decode As…", or the preference for ports.
--
-- Lengths are checked by hand, so that a fault is named: an expert info in the group "Malformed" for what a receiver drops,
-- in "Protocol" for what it tolerates.

local machnet = Proto("machnet", "Machnet")

local HEADER, MAX_WORDS, MAX_TOKEN, BASE_PAYLOAD, RESET_LEN, PROBE_LEN = 16, 16, 64, 1232, 36, 40
local INIT, ACCEPT, RETRY, DATA, RESET, PROBE, PROBE_REPLY = 1, 2, 3, 4, 5, 6, 7
local PAD, MESSAGE, FIN, STOP, ABORT, BLOCKED, PING, REFUSED = 0, 1, 2, 3, 4, 5, 6, 9

local types = { "INIT", "ACCEPT", "RETRY", "DATA", "RESET", "PROBE", "PROBE_REPLY" }
local chunk_types = { [0] = "PAD", "MESSAGE", "FIN", "STOP", "ABORT", "BLOCKED", "PING", "NEW_ID", "CRYPTO", "REFUSED" }
local reasons = {
  [0] = "none", "refused", "version", "unknown flow", "protocol", "too large", "shutdown", "linger",
}

local f = {
  version = ProtoField.uint8("machnet.version", "Version", base.DEC, nil, 0xf0),
  type = ProtoField.uint8("machnet.type", "Type", base.DEC, types, 0x0f),
  flags = ProtoField.uint8("machnet.flags", "Flags", base.HEX),
  blocks = ProtoField.uint8("machnet.flags.blocks", "Acknowledgement blocks", base.DEC, nil, 0x03),
  ack_now = ProtoField.bool("machnet.flags.ack_now", "ACK_NOW", 8, nil, 0x04),
  path = ProtoField.uint8("machnet.path", "Path"),
  key = ProtoField.uint8("machnet.key", "Key"),
  flow = ProtoField.uint64("machnet.flow", "Flow id", base.HEX),
  flow_engine = ProtoField.uint8("machnet.flow.engine", "Engine"),
  flow_slot = ProtoField.uint24("machnet.flow.slot", "Slot"),
  flow_random = ProtoField.uint32("machnet.flow.random", "Random", base.HEX),
  number = ProtoField.uint32("machnet.number", "Packet number (low half)"),
  reserved = ProtoField.uint32("machnet.reserved", "Reserved", base.HEX),

  floor_distance = ProtoField.uint16("machnet.floor_distance", "Floor distance"),
  floor = ProtoField.uint32("machnet.floor", "Floor"),
  credit = ProtoField.uint32("machnet.credit", "Credit (units of 64 B)"),

  ack = ProtoField.none("machnet.ack", "Acknowledgement"),
  ack_largest = ProtoField.uint32("machnet.ack.largest", "Largest"),
  ack_run = ProtoField.uint16("machnet.ack.run", "Run"),
  ack_path = ProtoField.uint8("machnet.ack.path", "Path"),
  ack_words = ProtoField.uint8("machnet.ack.words", "Bitmap words"),
  ack_delay = ProtoField.uint16("machnet.ack.delay", "Delay (µs)"),
  ack_bitmap = ProtoField.bytes("machnet.ack.bitmap", "Bitmap"),
  ack_ranges = ProtoField.string("machnet.ack.ranges", "Acknowledged"),
  ack_holes = ProtoField.uint32("machnet.ack.holes", "Not reported between"),

  chunk = ProtoField.none("machnet.chunk", "Chunk"),
  chunk_type = ProtoField.uint16("machnet.chunk.type", "Type", base.DEC, chunk_types, 0xf000),
  chunk_flags = ProtoField.uint16("machnet.chunk.flags", "Flags", base.HEX, nil, 0x0fff),
  chunk_len = ProtoField.uint16("machnet.chunk.length", "Length of body"),
  chunk_body = ProtoField.bytes("machnet.chunk.body", "Body"),
  message_whole = ProtoField.bool("machnet.message.whole", "WHOLE", 16, nil, 0x0001),
  message_id = ProtoField.uint32("machnet.message.id", "Message id"),
  message_offset = ProtoField.uint32("machnet.message.offset", "Offset"),
  message_total = ProtoField.uint32("machnet.message.total", "Total"),
  message_payload = ProtoField.bytes("machnet.message.payload", "Payload"),
  message_len = ProtoField.uint32("machnet.message.length", "Payload length"),
  fin = ProtoField.uint32("machnet.fin", "First message that will not come"),
  blocked = ProtoField.uint32("machnet.blocked", "Units wanted"),
  refused_first = ProtoField.uint32("machnet.refused.first", "First number refused"),
  refused_last = ProtoField.uint32("machnet.refused.last", "Last number refused"),
  reason = ProtoField.uint16("machnet.reason", "Reason", base.DEC, reasons),

  source = ProtoField.uint64("machnet.source", "Source flow id", base.HEX),
  instance = ProtoField.uint64("machnet.instance", "Instance", base.HEX),
  max_message = ProtoField.uint32("machnet.max_message", "Largest message (bytes)"),
  max_ack_delay = ProtoField.uint32("machnet.max_ack_delay", "max_ack_delay (µs)"),
  versions = ProtoField.uint16("machnet.versions", "Versions spoken (bits)", base.HEX),
  engines = ProtoField.uint8("machnet.engines", "Engines"),
  first_port = ProtoField.uint16("machnet.first_port", "First port"),
  last_port = ProtoField.uint16("machnet.last_port", "Last port"),
  features = ProtoField.uint32("machnet.features", "Features", base.HEX),
  token_len = ProtoField.uint16("machnet.token.length", "Token length"),
  token = ProtoField.bytes("machnet.token", "Token"),
  extensions_len = ProtoField.uint16("machnet.extensions.length", "Length of extensions"),
  extension_type = ProtoField.uint16("machnet.extension.type", "Extension type"),
  extension = ProtoField.bytes("machnet.extension", "Extension"),
  padding = ProtoField.bytes("machnet.padding", "Padding"),

  nonce = ProtoField.uint64("machnet.probe.nonce", "Nonce", base.HEX),
  probe_echo = ProtoField.uint64("machnet.probe.echo", "Nonce of the packet that is answered", base.HEX),
  hit = ProtoField.uint8("machnet.probe.hit", "Engine that the answered packet hit"),
  seen = ProtoField.uint8("machnet.probe.seen", "Engine that the flow's last packet hit"),
  seen_from = ProtoField.uint16("machnet.probe.seen.source", "Its source port"),
  seen_to = ProtoField.uint16("machnet.probe.seen.destination", "Its destination port"),
  probe_flags = ProtoField.uint8("machnet.probe.flags", "Flags of the probe", base.HEX),
  settled = ProtoField.bool("machnet.probe.settled", "SETTLED", 8, nil, 0x01),
  home = ProtoField.bool("machnet.probe.home", "HOME", 8, nil, 0x02),
  last = ProtoField.bool("machnet.probe.last", "LAST", 8, nil, 0x04),
  more = ProtoField.bool("machnet.probe.more", "MORE", 8, nil, 0x08),

  echo = ProtoField.none("machnet.echo", "Header of the packet that is answered"),
  echo_flow = ProtoField.uint64("machnet.echo.flow", "Flow id", base.HEX),
  echo_number = ProtoField.uint32("machnet.echo.number", "Packet number (low half)"),
}
machnet.fields = f

local function malformed(name, text)
  return ProtoExpert.new("machnet.malformed." .. name, text, expert.group.MALFORMED, expert.severity.ERROR)
end

local e = {
  truncated = malformed("truncated", "Truncated"),
  version = malformed("version", "A version that is not spoken"),
  type = malformed("type", "A packet type that is unknown or reserved"),
  reserved = malformed("reserved", "Reserved bits are set"),
  flow = malformed("flow", "A flow id that is forbidden here"),
  value = malformed("value", "A value that the specification forbids"),
  short_init = malformed("short_init", "An INIT below 1232 bytes"),
  blocks = malformed("blocks", "More than one acknowledgement block of a path"),
  unknown = ProtoExpert.new("machnet.unknown", "Unknown, and skipped or taken for none", expert.group.PROTOCOL,
    expert.severity.NOTE),
  short = ProtoExpert.new("machnet.short", "Elicits an acknowledgement and is below 40 bytes", expert.group.PROTOCOL,
    expert.severity.WARN),
  ended = ProtoExpert.new("machnet.ended", "The flow ends out of order", expert.group.SEQUENCE, expert.severity.CHAT),
}
machnet.experts = e

machnet.prefs.ports = Pref.range("UDP ports", "", "Always dissected as Machnet, whatever the packets look like", 65535)

-- What is thrown where the rest of a packet cannot be read.
local Unreadable = {}

local function fault(item, kind, format, ...)
  item:add_proto_expert_info(kind, string.format(format, ...))
end

-- Bytes `at`..`at + len` of the packet, or the end of it.
local function need(c, at, len, what)
  local have = c.tvb:reported_len() - at
  if len > have or len > c.tvb:len() - at then
    fault(c.tree, e.truncated, "%s needs %d bytes, %d are left", what, len, math.max(have, 0))
    error(Unreadable)
  end
  return c.tvb(at, len)
end

local function reserved(tree, range, what)
  local item = tree:add(f.reserved, range)
  if range:uint() ~= 0 then fault(item, e.reserved, "%s must be 0", what) end
end

local function hex(range)
  return "0x" .. tostring(range:bytes()):lower()
end

local function add_flow(tree, field, range)
  local item = tree:add(field, range)
  item:add(f.flow_engine, range(0, 1))
  item:add(f.flow_slot, range(1, 3))
  item:add(f.flow_random, range(4, 4))
  return item
end

-- How a list of number ranges, newest first, is written.
local function describe(ranges)
  local words = {}
  for i, r in ipairs(ranges) do
    words[i] = r[1] == r[2] and tostring(r[1]) or string.format("%d-%d", r[1], r[2])
  end
  return table.concat(words, ", ")
end

local function dissect_ack(c, at, index)
  local fixed = need(c, at, 12, "acknowledgement block")
  local words = fixed(7, 1):uint()
  local largest, run = fixed(0, 4):uint(), fixed(4, 2):uint()
  local item = c.tree:add(f.ack, fixed)
  item:add(f.ack_largest, fixed(0, 4))
  local run_item = item:add(f.ack_run, fixed(4, 2))
  if run == 0 then fault(run_item, e.value, "a run of 0") end
  local path = item:add(f.ack_path, fixed(6, 1))
  if fixed(6, 1):uint() ~= 0 then fault(path, e.reserved, "the path must be 0") end
  if index > 0 then fault(item, e.blocks, "there is one path, and this is block %d", index + 1) end
  local words_item = item:add(f.ack_words, fixed(7, 1))
  item:add(f.ack_delay, fixed(8, 2))
  reserved(item, fixed(10, 2), "bits of an acknowledgement")
  if words > MAX_WORDS then
    fault(words_item, e.value, "%d bitmap words; 16 is the most", words)
    error(Unreadable)
  end
  -- Numbers are modulo 2^32.
  local function number(below) return (largest - below) % 4294967296 end
  local ranges, holes = {}, 0
  if run > 0 then ranges[1] = { number(run - 1), largest } end
  if words > 0 then
    local bitmap = need(c, at + 12, 8 * words, "acknowledgement bitmap")
    item:set_len(12 + 8 * words)
    item:add(f.ack_bitmap, bitmap)
    local last, zeros = nil, 1 -- the hole that ended the run has no bit
    for i = 0, 64 * words - 1 do
      local below = run + 1 + i
      if bitmap:bitfield(i, 1) == 1 then
        if last and zeros == 0 then
          ranges[#ranges][1] = number(below)
        else
          ranges[#ranges + 1] = { number(below), number(below) }
          holes = holes + zeros
        end
        last, zeros = below, 0
      else
        zeros = zeros + 1
      end
    end
  end
  local text = describe(ranges)
  item:add(f.ack_ranges, fixed, text):set_generated()
  item:add(f.ack_holes, fixed, holes):set_generated()
  item:append_text(": " .. text)
  c.info[#c.info + 1] = "ack " .. (#ranges > 3 and describe({ ranges[1], ranges[2], ranges[3] }) .. ", …" or text)
  return at + 12 + 8 * words
end

local function add_reason(c, item, range)
  local value = range:uint()
  local reason = item:add(f.reason, range)
  if not reasons[value] then fault(reason, e.unknown, "reason %d is unknown and counts as 0", value) end
  item:append_text(": " .. (reasons[value] or "none"))
  return reasons[value] or "none"
end

local function dissect_message(c, item, at, len, whole)
  local body = need(c, at, len, "chunk body")
  local id = body(0, 4):uint()
  item:add(f.message_id, body(0, 4))
  local head = whole and 4 or 12
  local payload = len - head
  if whole then
    item:append_text(string.format(" %d, whole, %d bytes", id, payload))
    c.info[#c.info + 1] = string.format("msg %d", id)
  else
    local offset, total = body(4, 4):uint(), body(8, 4):uint()
    local offset_item, total_item = item:add(f.message_offset, body(4, 4)), item:add(f.message_total, body(8, 4))
    local finish = offset + payload
    if payload == 0 then fault(item, e.value, "an empty part") end
    if offset % 64 ~= 0 then fault(offset_item, e.value, "an offset that is no multiple of 64") end
    if finish > total then fault(total_item, e.value, "the part ends at %d, after its message", finish) end
    if finish < total and finish % 64 ~= 0 then
      fault(item, e.value, "the part ends at %d, no multiple of 64 and not the end", finish)
    end
    item:append_text(string.format(" %d, bytes %d to %d of %d", id, offset, finish, total))
    c.info[#c.info + 1] = string.format("msg %d %d-%d/%d", id, offset, finish, total)
  end
  item:add(f.message_len, body(0, head), payload):set_generated()
  if payload > 0 then item:add(f.message_payload, body(head, payload)) end
end

-- Body lengths that a type needs.
local needs = { [FIN] = 4, [STOP] = 2, [ABORT] = 2, [BLOCKED] = 4, [REFUSED] = 8 }

local function dissect_chunk(c, at)
  local head = need(c, at, 4, "chunk header")
  local kind, flags, len = head:bitfield(0, 4), head:bitfield(4, 12), head(2, 2):uint()
  local name = chunk_types[kind] or string.format("type %d", kind)
  local have = c.tvb:reported_len() - at - 4
  local item = c.tree:add(f.chunk, c.tvb(at, 4 + math.min(len, math.max(have, 0))))
  item:set_text(name)
  item:add(f.chunk_type, head(0, 2))
  local flags_item = item:add(f.chunk_flags, head(0, 2))
  if kind == MESSAGE then flags_item:add(f.message_whole, head(0, 2)) end
  item:add(f.chunk_len, head(2, 2))
  local body = need(c, at + 4, len, "chunk body")
  if needs[kind] and len < needs[kind] then
    fault(item, e.truncated, "%s needs %d bytes, %d are there", name, needs[kind], len)
    error(Unreadable)
  end
  c.elicits = c.elicits or (kind ~= PAD and kind ~= REFUSED)
  if kind == MESSAGE then
    local whole = flags % 2 == 1
    if len < (whole and 4 or 12) then
      fault(item, e.truncated, "a message needs %d bytes, %d are there", whole and 4 or 12, len)
      error(Unreadable)
    end
    dissect_message(c, item, at + 4, len, whole)
    return at + 4 + len
  end
  if kind == FIN then
    item:add(f.fin, body(0, 4))
    item:append_text(string.format(": no message from %d on", body(0, 4):uint()))
    c.info[#c.info + 1] = string.format("FIN %d", body(0, 4):uint())
  elseif kind == STOP or kind == ABORT then
    local reason = add_reason(c, item, body(0, 2))
    if kind == ABORT then fault(item, e.ended, "aborted: %s", reason) end
    c.info[#c.info + 1] = string.format("%s(%s)", name, reason)
  elseif kind == BLOCKED then
    item:add(f.blocked, body(0, 4))
    c.info[#c.info + 1] = string.format("BLOCKED %d", body(0, 4):uint())
  elseif kind == REFUSED then
    item:add(f.refused_first, body(0, 4))
    item:add(f.refused_last, body(4, 4))
    c.info[#c.info + 1] = string.format("REFUSED %d-%d", body(0, 4):uint(), body(4, 4):uint())
  elseif kind ~= PAD then
    if len > 0 then item:add(f.chunk_body, body) end
    if kind ~= PING then fault(item, e.unknown, "%s is skipped", name) end
    c.info[#c.info + 1] = name
  end
  return at + 4 + len
end

local function dissect_data(c, blocks, number)
  local fixed = need(c, HEADER, 8, "DATA")
  local distance = fixed(0, 2):uint()
  c.tree:add(f.floor_distance, fixed(0, 2))
  c.tree:add(f.floor, fixed(0, 2), (number - distance) % 4294967296):set_generated()
  reserved(c.tree, fixed(2, 2), "bits of DATA")
  c.tree:add(f.credit, fixed(4, 4))
  local at = HEADER + 8
  for i = 0, blocks - 1 do at = dissect_ack(c, at, i) end
  while at < c.tvb:reported_len() do at = dissect_chunk(c, at) end
  if c.elicits and c.tvb:reported_len() < 40 then fault(c.tree, e.short, "%d bytes", c.tvb:reported_len()) end
end

local function dissect_handshake(c, kind)
  local body = need(c, HEADER, 48, "handshake")
  local tree = c.tree
  local source = add_flow(tree, f.source, body(0, 8))
  if body(0, 8):uint64() == UInt64(0) then fault(source, e.flow, "the source flow id must not be 0") end
  tree:add(f.instance, body(8, 8))
  tree:add(f.max_message, body(16, 4))
  tree:add(f.credit, body(20, 4))
  tree:add(f.max_ack_delay, body(24, 4))
  tree:add(f.versions, body(28, 2))
  local engines = tree:add(f.engines, body(30, 1))
  if body(30, 1):uint() == 0 then fault(engines, e.value, "no engine") end
  reserved(tree, body(31, 1), "bits of a handshake")
  local first, last = body(32, 2):uint(), body(34, 2):uint()
  local port = tree:add(f.first_port, body(32, 2))
  tree:add(f.last_port, body(34, 2))
  if first == 0 or first > last then fault(port, e.value, "ports %d to %d", first, last) end
  tree:add(f.features, body(36, 4))
  local token, extensions = body(40, 2):uint(), body(42, 2):uint()
  local token_item = tree:add(f.token_len, body(40, 2))
  tree:add(f.extensions_len, body(42, 2))
  reserved(tree, body(44, 4), "bits of a handshake")
  if token > MAX_TOKEN then
    fault(token_item, e.value, "a token of %d bytes; 64 is the most", token)
    error(Unreadable)
  end
  local at = HEADER + 48
  if token > 0 then tree:add(f.token, need(c, at, token, "token")) end
  at = at + token
  local finish = at + extensions
  if extensions > 0 then need(c, at, extensions, "extensions") end
  while at < finish do
    if finish - at < 4 or finish - at - 4 < c.tvb(at + 2, 2):uint() then
      fault(tree, e.truncated, "an extension reaches beyond the extensions")
      error(Unreadable)
    end
    local len = c.tvb(at + 2, 2):uint()
    local item = tree:add(f.extension_type, c.tvb(at, 2))
    if len > 0 then item:add(f.extension, c.tvb(at + 4, len)) end
    at = at + 4 + len
  end
  if at < c.tvb:len() then tree:add(f.padding, c.tvb(at)) end
  if kind == INIT and c.tvb:reported_len() < BASE_PAYLOAD then
    fault(tree, e.short_init, "%d bytes", c.tvb:reported_len())
  end
  c.info[#c.info + 1] = "source " .. hex(body(0, 8)) .. (token > 0 and ", token" or "")
end

local function dissect_retry(c)
  local head = need(c, HEADER, 4, "RETRY")
  local len = head(0, 2):uint()
  local item = c.tree:add(f.token_len, head(0, 2))
  reserved(c.tree, head(2, 2), "bits of RETRY")
  if len == 0 or len > MAX_TOKEN then
    fault(item, e.value, "a token of %d bytes", len)
    error(Unreadable)
  end
  c.tree:add(f.token, need(c, HEADER + 4, len, "token"))
end

local function dissect_reset(c)
  local body = need(c, HEADER, RESET_LEN - HEADER, "RESET")
  local reason = add_reason(c, c.tree, body(0, 2))
  c.tree:add(f.versions, body(2, 2))
  local echo = c.tree:add(f.echo, body(4, HEADER))
  local kind = types[body(4, 1):bitfield(4, 4)] or "?"
  echo:append_text(": " .. kind)
  echo:add(f.echo_flow, body(8, 8))
  echo:add(f.echo_number, body(16, 4))
  fault(c.tree, e.ended, "reset: %s", reason)
  c.info[#c.info + 1] = string.format("%s, answers %s %d of %s", reason, kind, body(16, 4):uint(), hex(body(8, 8)))
end

local function dissect_probe(c)
  local body = need(c, HEADER, PROBE_LEN - HEADER, "probe")
  local tree = c.tree
  local nonce = tree:add(f.nonce, body(0, 8))
  if body(0, 8):uint64() == UInt64(0) then fault(nonce, e.value, "a nonce of 0") end
  tree:add(f.probe_echo, body(8, 8))
  local hit, seen = tree:add(f.hit, body(16, 1)), tree:add(f.seen, body(17, 1))
  if body(8, 8):uint64() == UInt64(0) then
    hit:append_text(" (answers none)")
  else
    c.info[#c.info + 1] = string.format("hit %d", body(16, 1):uint())
  end
  if body(17, 1):uint() == 255 then
    seen:append_text(" (none)")
  else
    tree:add(f.seen_from, body(18, 2))
    tree:add(f.seen_to, body(20, 2))
    c.info[#c.info + 1] = string.format("seen %d-%d at %d", body(18, 2):uint(), body(20, 2):uint(), body(17, 1):uint())
  end
  local flags = tree:add(f.probe_flags, body(22, 1))
  for bit, name in pairs({ [1] = "settled", [2] = "home", [4] = "last", [8] = "more" }) do
    flags:add(f[name], body(22, 1))
    if math.floor(body(22, 1):uint() / bit) % 2 == 1 then flags:append_text(" " .. name:upper()) end
  end
  if body(22, 1):uint() > 15 then fault(flags, e.reserved, "flags 0x%02x of a probe", body(22, 1):uint()) end
  reserved(tree, body(23, 1), "bits of a probe")
end

local function dissect_packet(c)
  local tree = c.tree
  local version_type = need(c, 0, HEADER, "header")(0, 1)
  local header = c.tvb(0, HEADER)
  local version = tree:add(f.version, version_type)
  local kind = version_type:bitfield(4, 4)
  local kind_item = tree:add(f.type, version_type)
  c.info[1] = types[kind] or string.format("type %d", kind)
  local number = header(12, 4):uint()
  if version_type:bitfield(0, 4) ~= 1 then
    fault(version, e.version, "version %d", version_type:bitfield(0, 4))
    return
  end
  local flags = tree:add(f.flags, header(1, 1))
  local bits = header(1, 1):uint()
  if kind == DATA then
    flags:add(f.blocks, header(1, 1))
    flags:add(f.ack_now, header(1, 1))
  end
  if kind == DATA and bits > 7 or kind ~= DATA and bits > 0 then
    fault(flags, e.reserved, "flags 0x%02x", bits)
  end
  local path, key = tree:add(f.path, header(2, 1)), tree:add(f.key, header(3, 1))
  local index = (kind == PROBE or kind == PROBE_REPLY) and 255 or 0
  if header(2, 1):uint() ~= index then fault(path, e.reserved, "the path must be %d", index) end
  if header(3, 1):uint() ~= 0 then fault(key, e.reserved, "the key must be 0") end
  local flow = add_flow(tree, f.flow, header(4, 8))
  local none = header(4, 8):uint64() == UInt64(0)
  if kind == INIT and not none or none and kind ~= INIT and kind ~= RESET then
    fault(flow, e.flow, none and "a flow id of 0 in %s" or "a flow id in %s", types[kind])
  end
  tree:add(f.number, header(12, 4))
  if kind == INIT or kind == ACCEPT or kind == DATA then
    c.info[1] = string.format("%s %d", c.info[1], number)
  end
  if not none then c.info[1] = c.info[1] .. " to " .. hex(header(4, 8)) end
  if kind == DATA then
    if bits >= 4 and bits <= 7 then c.info[#c.info + 1] = "ACK_NOW" end
    dissect_data(c, bits % 4, number)
  elseif kind == INIT or kind == ACCEPT then
    dissect_handshake(c, kind)
  elseif kind == RETRY then
    dissect_retry(c)
  elseif kind == RESET then
    dissect_reset(c)
  elseif kind == PROBE or kind == PROBE_REPLY then
    dissect_probe(c)
  else
    fault(kind_item, e.type, "type %d", kind)
  end
end

function machnet.dissector(tvb, pinfo, root)
  pinfo.cols.protocol = "Machnet"
  local tree = root:add(machnet, tvb())
  local c = { tvb = tvb, tree = tree, info = {}, elicits = false }
  local ok, problem = pcall(dissect_packet, c)
  if not ok and problem ~= Unreadable then error(problem, 0) end
  local text = table.concat(c.info, ", ")
  pinfo.cols.info = text
  tree:append_text(", " .. text)
  return tvb:len()
end

-- True if DATA's blocks and chunks fill the packet to its last byte.
local function fills(tvb)
  local at, size = HEADER + 8, tvb:reported_len()
  for _ = 1, tvb(1, 1):uint() % 4 do
    if at + 12 > size or tvb(at + 7, 1):uint() > MAX_WORDS or tvb(at + 4, 2):uint() == 0 then return false end
    at = at + 12 + 8 * tvb(at + 7, 1):uint()
  end
  while at + 4 <= size do at = at + 4 + tvb(at + 2, 2):uint() end
  return at == size
end

-- Strict: what looks like Machnet by chance is somebody else's.
local function looks_like_machnet(tvb)
  local size = tvb:reported_len()
  if tvb:len() < size or size < HEADER + 4 then return false end
  local kind, bits = tvb(0, 1):bitfield(4, 4), tvb(1, 1):uint()
  if tvb(0, 1):bitfield(0, 4) ~= 1 or bits > (kind == DATA and 7 or 0) or tvb(3, 1):uint() ~= 0 then return false end
  local probe = kind == PROBE or kind == PROBE_REPLY
  if tvb(2, 1):uint() ~= (probe and 255 or 0) then return false end
  local none = tvb(4, 8):uint64() == UInt64(0)
  if kind == INIT or kind == ACCEPT then
    return none == (kind == INIT) and size >= HEADER + 48 and tvb(47, 1):uint() == 0 and tvb(46, 1):uint() > 0
      and tvb(60, 4):uint() == 0 and tvb(HEADER, 8):uint64() ~= UInt64(0) and tvb(56, 2):uint() <= MAX_TOKEN
  elseif kind == RETRY then
    return not none and tvb(18, 2):uint() == 0 and size == HEADER + 4 + tvb(16, 2):uint()
  elseif kind == DATA then
    return not none and size >= HEADER + 8 and tvb(18, 2):uint() == 0 and fills(tvb)
  elseif probe then
    return not none and size == PROBE_LEN and tvb(38, 1):uint() <= 15 and tvb(39, 1):uint() == 0
  elseif kind == RESET then
    return size == RESET_LEN and tvb(16, 2):uint() <= #reasons
  end
  return false
end

machnet:register_heuristic("udp", function(tvb, pinfo, tree)
  if not looks_like_machnet(tvb) then return false end
  -- Whatever else the two say to each other is Machnet too.
  pinfo.conversation = machnet
  machnet.dissector(tvb, pinfo, tree)
  return true
end)

local udp_ports = DissectorTable.get("udp.port")
udp_ports:add_for_decode_as(machnet)

local ports = machnet.prefs.ports
function machnet.prefs_changed()
  if ports == machnet.prefs.ports then return end
  if ports ~= "" then udp_ports:remove(ports, machnet) end
  ports = machnet.prefs.ports
  if ports ~= "" then udp_ports:add(ports, machnet) end
end
