"""A triangle mesh from signed distances on a tetrahedral grid."""
