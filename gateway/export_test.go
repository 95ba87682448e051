package gateway

// OriginAllowed is originAllowed.
var OriginAllowed = originAllowed
