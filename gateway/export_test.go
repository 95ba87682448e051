package gateway

// OriginAllowed is originAllowed.
var OriginAllowed = originAllowed

// Household is household.
var Household = household

// Wake is Session.wake.
var Wake = (*Session).wake
