package gateway

// OriginAllowed is originAllowed.
var OriginAllowed = originAllowed

// Household is household.
var Household = household
