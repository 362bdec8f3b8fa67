-- A wrk script: every request is one payment that nobody sent before.
--
--   wrk -t1 -c8 -d10s -s payments.lua http://127.0.0.1:8000/v1/transactions -- FILE PREFIX FIRST
--
-- FILE is what `traffic.py` wrote: a line with the time of its first payment and the length of the
-- whole in seconds, then one line a payment with its time and the end of its JSON. The payments are
-- sent in their order, again and again, each time later. PREFIX and a number from FIRST on make the
-- ids. The token is that of AEGIS_TOKEN. One thread only: a second one would repeat the ids.

local all = {}

function setup(thread)
  table.insert(all, thread)
  if #all > 1 then error("payments.lua makes unique ids in one thread; run wrk with -t1") end
end

function init(args)
  local file, err = io.open(args[1])
  if not file then error(err) end
  epoch, period = file:read("*n", "*n")
  file:read("*l")
  times, ends = {}, {}
  for line in file:lines() do
    local time, rest = line:match("^(%d+)\t(.*)$")
    times[#times + 1], ends[#ends + 1] = tonumber(time), rest
  end
  file:close()
  prefix, at, n = args[2], tonumber(args[3]), #times
  head = "POST " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.host .. "\r\n"
    .. "Authorization: Bearer " .. (os.getenv("AEGIS_TOKEN") or "") .. "\r\n"
    .. "Content-Type: application/json\r\nContent-Length: "
end

function request()
  local i = at % n
  local time = epoch + times[i + 1] + (at - i) / n * period
  local body = '{"transaction_id":"' .. prefix .. at .. '","timestamp":"'
    .. os.date("!%Y-%m-%dT%H:%M:%SZ", time) .. '",' .. ends[i + 1]
  at = at + 1
  return head .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"p50_us":%d,"p90_us":%d,"p99_us":%d,"max_us":%d,'
      .. '"not_2xx":%d,"socket_errors":%d,"timeouts":%d,"next":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90),
    latency:percentile(99), latency.max, e.status, e.connect + e.read + e.write, e.timeout,
    all[1]:get("at")))
end
