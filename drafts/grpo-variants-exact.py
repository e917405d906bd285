
import torch, time, math
from itertools import product, combinations_with_replacement
from rlhf_lib.advantages import group_advantages, masked_whiten, all_equal
from rlhf_lib.losses import *
torch.set_num_threads(1)
D=torch.float64
TOK="73·"
replies=["7","3","·7","·3","··7","··3"]
T=3; N=6
lengths=torch.tensor([len(r) for r in replies])
mask=(torch.arange(T)<lengths[:,None]).to(D)
ids=torch.tensor([[TOK.index(c) for c in r]+[0]*(T-len(r)) for r in replies])
right=torch.tensor([float(r[-1]=="7") for r in replies],dtype=D)
PR=eval(sys.argv[1]) if len(sys.argv)>1 else [[[.30,.30,.40],[.50,.20,.30],[.70,.30,1e-30]],
                    [[.01,.59,.40],[.03,.57,.40],[.30,.70,1e-30]]]
start=torch.tensor(PR,dtype=D).log()
def logprobs(table):
    lp=table.log_softmax(-1)
    return lp[:,torch.arange(T),ids]*mask
table=start.clone().requires_grad_()
lp=logprobs(table); p=lp.sum(-1).exp()
J=(p*right).sum(1)
gJ,=torch.autograd.grad(J.mean(),table,retain_graph=True); gJ=gJ.flatten()
L=(p*lengths).sum(1).mean()
gL,=torch.autograd.grad(L,table,retain_graph=True); gL=gL.flatten()
gJp=[torch.autograd.grad(J[k]/2,table,retain_graph=True)[0].flatten() for k in range(2)]
print("J",J.tolist(),"L",(p*lengths).sum(1).tolist(), "|gJp|",[g.norm().item() for g in gJp])
p=p.detach()
S=torch.autograd.functional.jacobian(logprobs,start).reshape(2*N,T,-1)
G=8
def multisets(n,k,prob):
    rows=torch.tensor(list(combinations_with_replacement(range(n),k)))
    counts=torch.stack([(rows==i).sum(1) for i in range(n)],1).to(D)
    logc=math.lgamma(k+1)-torch.lgamma(counts+1).sum(1)
    return rows,(logc+ (counts*prob.log()).sum(1)).exp()
r1,q0=multisets(N,G,p[0]); _,q1=multisets(N,G,p[1])
rows_group=torch.cat([r1,r1+N]); P_group=torch.cat([q0,q1])/2
t=time.time(); rows_mixed,P_mixed=multisets(2*N,G,p.flatten()/2); print(len(rows_group),len(rows_mixed),P_group.sum(),P_mixed.sum(),time.time()-t)
mask2,right2=mask.repeat(2,1),right.repeat(2)
silent=all_equal(right2[rows_group])
def moments(rows,P,A,over):
    mean=torch.zeros(S.shape[-1],dtype=D); second=0.
    for a in range(0,len(rows),4000):
        g=rows[a:a+4000]; m=mask2[g]
        w={"sequences":m/m.sum(-1,keepdim=True)/G,"tokens":m/m.sum((1,2),keepdim=True),"budget":m/(G*T),"sum":m/G}[over]
        a_=A[a:a+4000]; a_=a_[...,None] if a_.dim()==2 else a_
        grad=torch.einsum("nit,nitd->nd",w*a_,S[g])
        mean+=P[a:a+4000]@grad; second+=(P[a:a+4000]@(grad**2).sum(1)).item()
    return mean,second
def group_A(b,s): return group_advantages(right2[rows_group].flatten(),G,b,s).view(-1,G)
def report(name,over,A=None,rows=rows_group,P=P_group):
    m,s=moments(rows,P,A,over)
    cos=(m@gJ)/(m.norm()*gJ.norm())
    k=[(m@g/(g@g)).item() for g in gJp]
    print(f"{name:18s} cos {cos:.4f} norm {m.norm()/gJ.norm():.3f} n/s {((s-m@m)/(m@m))**.5:.3f} even {k[0]:.3f} hard {k[1]:.3f} ratio {k[1]/k[0]:.2f} dlen/dJ {(m@gL)/(m@gJ):.3f} (true {gL@gJ/(gJ@gJ):.3f})")
report("grpo=gspo","sequences",group_A("mean","std"))
report("no std","sequences",group_A("mean","none"))
report("std, budget","budget",group_A("mean","std"))
report("dr_grpo","budget",group_A("mean","none"))
report("token=cispo","tokens",group_A("mean","std"))
Pd=P_group*~silent; q=Pd.sum(); Pd=Pd/q; print("kept",q, [float((P_group*silent)[:len(r1)].sum()*2),float((P_group*silent)[len(r1):].sum()*2)])
report("dynamic","sequences",group_A("mean","std"),P=Pd)
report("dapo","tokens",group_A("mean","std"),P=Pd)
report("rloo","sum",group_A("leave_one_out","none"))
R=right2[rows_mixed]; m=mask2[rows_mixed]; n=m.sum((1,2)); mu=(R[...,None]*m).sum((1,2))/n
var=(((R-mu[:,None])**2)[...,None]*m).sum((1,2))/n
A=(R-mu[:,None])*torch.rsqrt(var+1e-8)[:,None]
t=time.time(); report("reinforce++","tokens",A,rows_mixed,P_mixed); print(time.time()-t)
# off-policy
def grads_off(new, method):
    lpn=logprobs(new); old=logprobs(start).detach()
    # single samples; per sample loss -> weights on logprobs
    x=lpn.detach().reshape(2*N,T).clone().requires_grad_(); o=old.reshape(2*N,T)
    pr=(p.flatten()/2)
    Jold=(p*right).sum(1)
    A=(right2-Jold.repeat_interleave(N))[:,None]
    m=mask2
    if method=="stale": l=-A*x
    if method=="token": l=clipped_policy_loss(x,o,A)
    if method=="token_unclipped": l=clipped_policy_loss(x,o,A,.999999,1e9)
    if method=="cispo": l=cispo_loss(x,o,A)
    if method=="rloo": l=rloo_loss(x,o,A,m)/m.sum(1,keepdim=True)
    if method=="seq_unclipped": l=rloo_loss(x,o,A,m,.999999)/m.sum(1,keepdim=True) if False else (-A*torch.exp((x*m).sum(1)-(o*m).sum(1))[:,None]/m.sum(1,keepdim=True)).expand_as(x)
    if method=="gspo": l=gspo_loss(x,o,A,m)
    if method=="gspo_wide": l=gspo_loss(x,o,A,m,.2,.2)
    per=(l*m).sum(1)
    w,=torch.autograd.grad(-per.sum(),x)
    Sn=torch.autograd.functional.jacobian(logprobs,new).reshape(2*N,T,-1)
    g=torch.einsum("nt,ntd->nd",w,Sn)
    mean=pr@g; second=pr@(g**2).sum(1)
    tn=new.clone().requires_grad_(); Jn=(logprobs(tn).sum(-1).exp()*right).sum(1).mean()
    tr,=torch.autograd.grad(Jn,tn); tr=tr.flatten()
    return (mean@tr/(mean.norm()*tr.norm())).item(), (mean.norm()/tr.norm()).item(), ((second-mean@mean)/(mean@mean)).sqrt().item()
gen=torch.Generator().manual_seed(0)
for kind in ("ascent","random"):
    for eta in (0,.05,.2,.5,1,2):
        d = gJ.view_as(start)/gJ.norm() if kind=="ascent" else torch.randn(start.shape,generator=gen,dtype=D)
        if kind=="random": d=d/d.norm()
        new=start+eta*2*d
        lpn=logprobs(new).sum(-1); lpo=logprobs(start).sum(-1)
        kl=(p*(lpo-lpn)).sum(1).mean()
        print(kind,eta,f"KL {kl:.4f}", {m:tuple(round(v,3) for v in grads_off(new,m)) for m in ("stale","token","token_unclipped","cispo","rloo","seq_unclipped","gspo","gspo_wide")})
