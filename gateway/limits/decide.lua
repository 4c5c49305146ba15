-- Answers one ask of one gateway for one limit: `decide` of shared.py, where it is explained.
local key = KEYS[1]
local me = ARGV[1]
local n = {}
for i = 2, #ARGV do n[i] = tonumber(ARGV[i]) end
local call, lease_s, remembered_s, slots = n[2], n[3], n[4], n[5] == 1
local limit, rate, since_asked, until_asked, slice = n[6], n[7], n[8], n[9], n[10]
local back, kept_asked, recorded, busy = n[11], n[12], n[13], n[14]
local more, floor_asked, lowered = n[15] == 1, n[16], n[17] == 1
local seen = n[18]
local first_need = 19

local function text(number) return string.format('%.17g', number) end
local function whole(number) return string.format('%.0f', number) end

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local since, used, mine, repeated = nil, 0, nil, false
local others, dead, dead_held, all = 0, {}, 0, {}
local fields = redis.call('HGETALL', key)
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'since' then since = tonumber(value)
  elseif name == 'used' then used = tonumber(value)
  else
    local amount, ends = value:match('^(%S+) (%S+)$')
    amount, ends = tonumber(amount), tonumber(ends)
    local kind, who = name:sub(1, 2), name:sub(3)
    if kind == 'c:' then
      if who == me then repeated = call <= amount
      elseif ends <= now then dead[#dead + 1] = name end
    else
      all[#all + 1] = name
      if who == me then mine = amount
      elseif ends <= now then dead[#dead + 1] = name; dead_held = dead_held + amount
      else others = others + amount end
    end
  end
end

local lost = since == nil
local timeless = rate > 0 or (until_asked == 0 and since_asked == 0)
if timeless then
  if since == nil then used = 0
  elseif rate > 0 then used = math.max(0, used - math.max(0, now - since) * rate) end
  since = rate > 0 and now or 0
elseif since == nil or (since < since_asked and since_asked <= now) then
  since, used, mine, others, dead_held = since_asked, 0, nil, 0, 0
  for _, name in ipairs(all) do dead[#dead + 1] = name end
end

local kept, floor, room, amount, left, share = 0, 0, 0, 0, 0, 0
if slots then
  kept = kept_asked
  room = limit - others - busy - kept
  share = slice
else
  used = used - dead_held
  if rate > 0 or since_asked == since then
    kept, floor = kept_asked, floor_asked
    if lost then floor = math.max(floor, seen) end
    if repeated then
      if mine == nil then used = used + kept else used = used - math.max(0, mine - kept) end
    else
      if mine == nil then used = used + recorded end
      used = used - back
    end
  end
  used = math.max(used, 0, floor)
  if lowered and rate > 0 then used = math.min(used, limit) end
  room = limit - used
  share = math.max(0, slice - others)
end

local met, spent, rest = {}, 0, room
for i = first_need, #ARGV do
  local fits = not repeated and n[i] <= rest
  if fits then rest = rest - n[i]; spent = spent + n[i] end
  met[#met + 1] = fits and '1' or '0'
end
local ahead = 0
if more and not repeated then
  ahead = math.max(0, math.min(math.floor(share / 2) - kept, math.floor(rest / 2)))
end
local told
if slots then
  amount = busy + kept + spent + ahead
  told = kept + ahead
  left = limit - others - amount
  since, used = 0, 0
else
  used = used + spent + ahead
  amount = math.min(kept + ahead, share)
  told = amount
  left = limit - used
end

if #dead > 0 then redis.call('HDEL', key, unpack(dead)) end
redis.call('HSET', key, 'since', text(since), 'used', text(used),
  'c:' .. me, whole(call) .. ' ' .. text(now + remembered_s))
if amount > 0 then
  redis.call('HSET', key, 'l:' .. me, whole(amount) .. ' ' .. text(now + lease_s))
else
  redis.call('HDEL', key, 'l:' .. me)
end
-- A bucket left alone is full after a minute; a budget counts until its window is over.
if until_asked > 0 then redis.call('EXPIREAT', key, math.ceil(until_asked) + 86400)
elseif timeless and (rate > 0 or slots) then redis.call('EXPIRE', key, math.ceil(120 + 4 * lease_s))
else redis.call('PERSIST', key) end
return { table.concat(met), whole(ahead), whole(told), text(left), text(since), text(now) }
