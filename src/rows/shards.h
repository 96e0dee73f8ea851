/* Rows whose classes are spread over shards, of which this one has some: its statistics, and its part
   of the gradient from those of the whole row,

     g_j = scale exp(x_j - maximum),   at the label's place `own`

   in which the maximum is no less than any x_j. */

static void shard_statistics(const xf_rows *x, xf_panel *p, xf_shard *s, int panels)
{
    statistics(x, NULL, p, NULL, panels, true);
    for (int k = 0; k < panels; k++)
        for (int i = 0; i < p[k].rows; i++) {
            const real m = state(p + k, MAXIMUM)[i], held = state(p + k, HELD)[i];
            const bool nothing = m == -INFINITY && held == held;
            s[k].maximum[i] = m;
            s[k].rest[i] = nothing ? 0 : (double)(held + (m - m)) * (double)EXP_UNIT;
            s[k].label[i] = p[k].label[i] < 0 ? -INFINITY : state(p + k, LABEL_LOGIT)[i];
        }
}

static void shard_gradient(const xf_rows *x, xf_panel *p, const xf_shard *s, const xf_out *out,
                           int panels)
{
    for (int k = 0; k < panels; k++) {
        p[k].kept = XF_KEPT_NOTHING;
        for (int i = 0; i < LANES; i++) {
            const bool counts = i < p[k].rows && s[k].maximum[i] > -INFINITY;
            state(p + k, MAXIMUM)[i] = counts ? (real)s[k].maximum[i] : 0;
            state(p + k, SCALE)[i] = counts ? (real)s[k].scale[i] : 0;
            state(p + k, OWN_GRADIENT)[i] = counts ? (real)s[k].own[i] : 0;
        }
    }
    write_rows(WRITE_SCALED, x, NULL, p, out, panels, true);
    for (int k = 0; k < panels; k++)
        for (int i = 0; i < p[k].rows; i++)
            if (!(s[k].maximum[i] > -INFINITY))
                clear(out + k, i, p->classes);
}
