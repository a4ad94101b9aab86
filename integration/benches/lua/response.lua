-- The response hook, behind request.lua.
function envoy_on_response(handle)
  ask(handle, "/raw/optimize-response")
end
